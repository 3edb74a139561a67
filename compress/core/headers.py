"""The header of a safetensors file: what it may say and how much of it.

A model file comes from anywhere. Its header is text that decides what is built, so that its sizes
are bounded before anything is; paths and hub ids in it are kept as words, and none is opened.
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from compress.core.errors import UserError, first_line
from compress.core.json_files import parse_json

MOST_HEADER = 64 << 20  # bytes; the toolkit's largest model has 0.6 MB
MOST_TEXT = 4096  # characters of a path, a prompt or a pattern
MOST_ITEMS = 4096  # pins of a mixed-precision recipe name every layer once
MOST_PASSES = 64
MOST_NUMBER = 2**53
WRITE_AGAIN = "the file is damaged or from elsewhere: give one that compress.run wrote"


def read_metadata(file: Path) -> dict[str, str]:
    """The text by key in the header of a safetensors file.

    Raises:
        UserError: It is no such file, has too long a header, or one that repeats a key.
    """
    try:
        with safe_open(file, framework="pt") as reader:
            metadata = reader.metadata() or {}
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            text = stream.read(min(length, MOST_HEADER + 1))
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        reason = first_line(error)
        raise UserError(
            f"{file}: not a readable safetensors file ({reason}); {WRITE_AGAIN}"
        ) from None
    if len(text) > MOST_HEADER:
        raise UserError(
            f"{file}: has a header of {length:,} bytes, more than {MOST_HEADER:,}; {WRITE_AGAIN}"
        )
    parse_json(text, f"{file}, the header", WRITE_AGAIN)  # the library passes over equal keys
    return metadata


def _check_sizes(value: Any, where: str) -> None:
    """Raise UserError for more text, items or digits than any model of this toolkit has."""
    todo = [value]
    while todo:
        item = todo.pop()
        problem = _why_too_large(item)
        if problem is not None:
            raise UserError(f"{where}: holds {problem}; {WRITE_AGAIN}")
        if isinstance(item, dict):
            todo += item.keys()
            todo += item.values()
        elif isinstance(item, list):
            todo += item


def _why_too_large(item: Any) -> str | None:
    """What is too much of one value, its items left aside; None where nothing is."""
    if isinstance(item, str) and len(item) > MOST_TEXT:
        return f"a text of {len(item):,} characters, more than {MOST_TEXT:,}"
    if isinstance(item, (int, float)) and not -MOST_NUMBER <= item <= MOST_NUMBER:
        return f"a number beyond {MOST_NUMBER:,}"
    if isinstance(item, (dict, list)) and len(item) > MOST_ITEMS:
        return f"a list of {len(item):,} items, more than {MOST_ITEMS:,}"
    return None


def _entry(header: dict[str, str], key: str, file: Path) -> Any:
    where = f"{file}, '{key}' in the header"
    if key not in header:
        raise UserError(f"{where}: is missing; {WRITE_AGAIN}")
    value = parse_json(header[key], where, WRITE_AGAIN, strict=True)
    _check_sizes(value, where)
    return value


def _check_config(value: Any, kind: str, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: is no mapping of keys to values; {WRITE_AGAIN}")
    if not isinstance(value.get(kind), str):
        raise UserError(f"{where}: has no name under '{kind}'; {WRITE_AGAIN}")
    return value


def read_config(header: dict[str, str], key: str, file: Path) -> dict[str, Any]:
    """The source in a header, a mapping with a name under `family`."""
    return _check_config(_entry(header, key, file), "family", f"{file}, '{key}' in the header")


def read_configs(header: dict[str, str], key: str, file: Path) -> list[dict[str, Any]]:
    """The passes in a header, mappings with a name under `pass`; MOST_PASSES at most."""
    where = f"{file}, '{key}' in the header"
    entries = _entry(header, key, file)
    if not isinstance(entries, list):
        raise UserError(f"{where}: is no list of passes; {WRITE_AGAIN}")
    if len(entries) > MOST_PASSES:
        raise UserError(
            f"{where}: has {len(entries)} passes, more than {MOST_PASSES}; {WRITE_AGAIN}"
        )
    return [_check_config(item, "pass", f"{where}, number {i}") for i, item in enumerate(entries)]
