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


class _Refused(ValueError):
    """What JSON allows and a file of ours never holds."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Refused(f"the key '{key[:40]}' stands there twice")
        found[key] = value
    return found


def _no_constant(name: str) -> float:
    raise _Refused(f"{name} is no number of JSON")


def _check_depth(value: Any) -> None:
    """Raise _Refused for more than DEEPEST levels, which would exhaust the stack of whatever walks
    them.
    """
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
    raise _Refused(f"it is nested more than {DEEPEST} levels deep")


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
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(
            text,
            object_pairs_hook=_without_repeats,
            parse_constant=_no_constant if strict else None,
        )
        _check_depth(value)
    except RecursionError:
        raise UserError(f"{where}: is nested too deep; {remedy}") from None
    except ValueError as error:  # with it UnicodeDecodeError, JSONDecodeError and too long a number
        reason = (
            "it is not in UTF-8"
            if isinstance(error, UnicodeDecodeError)
            else str(error).partition(";")[0][:160]
        )
        raise UserError(f"{where}: is no valid JSON ({reason}); {remedy}") from None
    return value


@cache
def _adapter(shape: Any) -> TypeAdapter:
    return TypeAdapter(shape)


def check_shape(value: Any, shape: Any, where: str, remedy: str) -> None:
    """Raise UserError unless `value` has the types that `shape`, a type or TypedDict, asks for."""
    try:
        _adapter(shape).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(str(part)[:40] for part in first["loc"][:8])
        reason = (
            "is missing"
            if first["type"] == "missing"
            else first["msg"].replace("Input s", "s", 1)[:160]
        )
        raise UserError(f"{where}: {at + ' ' if at else ''}{reason}; {remedy}") from None


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
    path, where, remedy = Path(path), str(path), f"this is {what}, and {remedy}"
    if not path.is_file():
        raise UserError(f"{where}: is not there; {remedy}")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(
                f"{where}: has {path.stat().st_size:,} bytes, more than {MOST_BYTES:,}; {remedy}"
            )
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror}); {remedy}") from None
    value = parse_json(content, where, remedy)
    check_shape(value, shape, where, remedy)
    return value


def read_lines(path: Path, kind: type) -> list:
    """The values of type `kind` in a file of one JSON value a line, up to the first line without.

    A process that is killed leaves half a line at the end. A file that is not there has none.
    """
    found: list = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            value = parse_json(line, str(path), "measure again")
        except UserError:
            break
        if not isinstance(value, kind):
            break
        found.append(value)
    return found
