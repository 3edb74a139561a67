"""Reading JSON, the toolkit's own files and headers: whole, of the right shape, or one sentence.

The files lie in folders that people copy, edit and cut off. What is read here is checked before
anything uses it.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from compress.core.errors import UserError

MOST_BYTES = 64 << 20  # a ledger with the log of a long training has a few MB
DEEPEST = 64
MOST_REASON, MOST_KEY, MOST_PARTS = 160, 40, 8  # of what an error shows


class _RefusedError(ValueError):
    """What JSON allows and a file of ours never holds."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise _RefusedError(f"the key '{key[:MOST_KEY]}' stands there twice")
        mapping[key] = value
    return mapping


def _no_constant(name: str) -> float:
    raise _RefusedError(f"{name} is no number of JSON")


def _check_depth(value: Any) -> None:
    """Raise _RefusedError for more than DEEPEST levels, which would exhaust somebody's stack."""
    level = [value]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        if not inner:
            return
        level = inner
    raise _RefusedError(f"it is nested more than {DEEPEST} levels deep")


def parse_json(text: str | bytes, where: str, remedy: str, strict: bool = False) -> Any:
    """The value that `text` holds.

    Args:
        text: JSON, as bytes in UTF-8.
        where: What begins the sentence of an error: a file, and what is read of it.
        remedy: What ends it: what to do.
        strict: Refuse NaN and Infinity too, which Python writes and JSON does not know.

    Raises:
        UserError: For anything that is no JSON, repeats a key, or is too deep or too long.
    """
    if len(text) > MOST_BYTES:
        raise UserError(f"{where}: has {len(text):,} bytes, more than {MOST_BYTES:,}; {remedy}")
    try:
        value = json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text,
            object_pairs_hook=_without_repeats,
            parse_constant=_no_constant if strict else None,
        )
        _check_depth(value)
    except RecursionError:
        raise UserError(f"{where}: is nested too deep; {remedy}") from None
    except UnicodeDecodeError:
        raise UserError(f"{where}: is no valid JSON (it is not in UTF-8); {remedy}") from None
    except ValueError as error:  # with it JSONDecodeError and too long a number
        reason = str(error).partition(";")[0][:MOST_REASON]
        raise UserError(f"{where}: is no valid JSON ({reason}); {remedy}") from None
    return value


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def check_shape(value: Any, shape: Any, where: str, remedy: str) -> None:
    """Check the types in what a JSON file held.

    Args:
        value: What it held.
        shape: A type or TypedDict.
        where: What begins the sentence of an error.
        remedy: What ends it.

    Raises:
        UserError: `value` is not of the shape; the first wrong place is told.
    """
    try:
        _adapter(shape).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        parts = [str(part)[:MOST_KEY] for part in first["loc"][:MOST_PARTS]]
        place = f"{'.'.join(parts)} " if parts else ""
        reason = first["msg"].replace("Input s", "s", 1)[:MOST_REASON]
        if first["type"] == "missing":
            reason = "is missing"
        raise UserError(f"{where}: {place}{reason}; {remedy}") from None


def read_json(
    path: str | Path, what: str, shape: Any = dict, remedy: str = "it is damaged: write it again"
) -> Any:
    """What the JSON file `path` holds, with the types that `shape` asks for.

    Args:
        path: The file.
        what: What it is, for the sentence: "the ledger of a run".
        shape: `dict`, `list`, or a TypedDict with the keys that the caller reads.
        remedy: What the user can do about a bad file.

    Raises:
        UserError: For a file that is missing, cannot be read, is no JSON, or is of another shape.
    """
    where = str(path)
    remedy = f"this is {what}, and {remedy}"
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{where}: is not there; {remedy}")
    try:
        size = file.stat().st_size
        if size > MOST_BYTES:
            raise UserError(f"{where}: has {size:,} bytes, more than {MOST_BYTES:,}; {remedy}")
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror}); {remedy}") from None
    value = parse_json(content, where, remedy)
    check_shape(value, shape, where, remedy)
    return value


def read_lines(path: Path, kind: type) -> list[Any]:
    """The values of type `kind` in a file of one JSON value a line, up to the first line without.

    A process that is killed leaves half a line at the end. A file that is not there has none.
    """
    values: list[Any] = []
    if not path.is_file():
        return values
    for line in path.read_bytes().splitlines():
        try:
            value = parse_json(line, str(path), "measure again")
        except UserError:
            return values
        if not isinstance(value, kind):
            return values
        values.append(value)
    return values
