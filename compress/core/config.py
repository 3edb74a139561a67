"""User input: YAML -> overrides -> pydantic, with errors that name the key, the valid ones and the nearest spelling."""

import math
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from compress.core import yaml_text
from compress.core.errors import UserError, nearest, shown
from compress.core.yaml_text import MOST_DEPTH

M = TypeVar("M", bound=BaseModel)
# A part of an override's key: a word without dots, or anything in quotes.
_PART = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([^."'=\s][^."'=]*))(\.|=|$)""")


class Strict(BaseModel):
    """The base of every config: a key that it does not have is refused, and no value changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a recipe file, which no other object holds a part of.

    Raises:
        UserError: The file is missing, no UTF-8 text, or no YAML that recipes are made of
            (`yaml_text.parse`).
    """
    path = Path(path)
    if (kind := _no_file(path)) is not None:
        raise UserError(
            f"recipe {path} {kind}; the recipes that come with the project are under recipes/"
        )
    try:
        text = yaml_text.read_text(path)
    except OSError as error:
        raise UserError(
            f"recipe {path} cannot be read: {error.strerror}; give a file that can be"
        ) from None
    data = yaml_text.parse(text, f"recipe {path}")
    if not isinstance(data, dict):
        raise UserError(
            f"recipe {path} is not a mapping of keys to values; see recipes/ for examples"
        )
    return data


def _no_file(path: Path) -> str | None:
    """Why nothing can be read there; None for a file."""
    try:
        if path.is_file():
            return None
        if path.is_dir():
            return "is a folder"
        return "is no file" if path.exists() else "does not exist"
    except (OSError, ValueError):  # a name that is too long, or has a NUL
        return "does not exist"


def override(data: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Apply `a.b.0.c=value` to nested mappings and lists, in their order; validation comes
    afterwards.

    A part of the key that has dots itself stands in quotes: `passes.1.pins."decoder.conv_in"=8`.
    The value is YAML.

    Args:
        data: From `read_yaml`. It is changed.
        assignments: As they were typed.

    Returns:
        `data`.

    Raises:
        UserError: A key that is malformed or leads through a single value, a list index that there
            is not, a value that is no YAML.
    """
    for assignment in assignments:
        parts, value = _split(assignment)
        key = ".".join(parts)
        *parents, last = parts
        node: Any = data
        for i, part in enumerate(parents):
            node = _child(node, part, ".".join(parts[: i + 1]), key)
        parsed = yaml_text.parse(value, f"override {shown(key)}: the value")
        if isinstance(node, list):
            node[_index(node, last, key)] = parsed
        elif isinstance(node, dict):
            node[last] = parsed
        else:
            raise UserError(
                f"override {shown(key)}: {shown('.'.join(parents))} holds a single "
                "value and has no keys"
            )
    return data


def _split(assignment: str) -> tuple[list[str], str]:
    """The parts of the key, and the value's text."""
    parts, position = [], 0
    while len(parts) < MOST_DEPTH:
        match = _PART.match(assignment, position)
        if not match or not match[4]:
            raise UserError(
                f"override {shown(assignment)} is not of the form key=value, such as "
                "source.size=sd21; keys "
                "are words with dots between, in quotes where a word has a dot itself"
            )
        parts.append(next(found for found in match.groups()[:3] if found is not None).strip())
        position = match.end()
        if match[4] == "=":
            return parts, assignment[position:]
    raise UserError(
        f"override {shown(assignment)}: a key has at most {MOST_DEPTH} parts; no recipe is so deep"
    )


def _index(node: list, part: str, key: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", part) or int(part) >= len(node):
        there = f"0 to {len(node) - 1}" if node else "it is empty"
        raise UserError(
            f"override {shown(key)}: {shown(part)} is no index into a list of {len(node)} ({there})"
        )
    return int(part)


def _child(node: Any, part: str, where: str, key: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, key)]
    if isinstance(node, dict):
        return node.setdefault(part, {})
    raise UserError(
        f"override {shown(key)}: {shown(where.rpartition('.')[0])} holds a single "
        "value and has no keys"
    )


def validate(model: type[M], data: Any, where: str) -> M:
    """`model(**data)`, its first validation error turned into one sentence.

    Raises:
        UserError: What pydantic refuses; also true or false where a number is wanted, and numbers
            that are not finite, both of which pydantic takes.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where}: must be a mapping of keys to values, got {shown(data)}")
    try:
        found = model.model_validate(data)
    except ValidationError as error:
        raise UserError(_sentence(model, error, where)) from None
    except RecursionError:
        raise UserError(
            f"{where}: mappings and lists lie too deep in one another; leave out levels"
        ) from None
    _check_numbers(data, found, where)
    return found


def _check_numbers(data: Any, found: Any, where: str) -> None:
    """`data` as given beside what it became; both are walked together."""
    if isinstance(found, BaseModel):
        for name, field in type(found).model_fields.items():
            key = field.alias or name
            given = data.get(key, data.get(name)) if isinstance(data, dict) else None
            _check_numbers(given, getattr(found, name), f"{where}: {name}")
    elif isinstance(found, dict):
        for name, value in found.items():
            given = data.get(name) if isinstance(data, dict) else None
            _check_numbers(given, value, f"{where}.{name}")
    elif isinstance(found, (list, tuple)):
        same = isinstance(data, (list, tuple)) and len(data) == len(found)
        for i, value in enumerate(found):
            _check_numbers(data[i] if same else None, value, f"{where}.{i}")
    elif isinstance(found, float) and not math.isfinite(found):
        raise UserError(f"{where}: {found} is not finite; write a number such as 0.5")
    elif isinstance(found, (int, float)) and not isinstance(found, bool) and isinstance(data, bool):
        raise UserError(f"{where}: takes a number, got {shown(data)}; write one such as 8")


def _sentence(model: type[BaseModel], error: ValidationError, where: str) -> str:
    first = error.errors(include_url=False)[0]
    path = [str(p) for p in first["loc"]]
    at = f"{where}: {'.'.join(path)}" if path else where
    if first["type"] == "extra_forbidden":
        valid = _fields_at(model, path[:-1])
        return f"{at}: unknown key{nearest(path[-1], valid)}; valid keys: {', '.join(valid)}"
    if first["type"] == "missing":
        return f"{at}: this key is required; add it to the recipe"
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    plain = not isinstance(given, (dict, list, BaseModel))
    said = repr(given) in message or shown(given) in message
    told = f", got {shown(given)}" if plain and not said else ""
    quotes = "; put it in quotes if it is text" if first["type"] == "string_type" and plain else ""
    return f"{at}: {message}{told}{quotes}"


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the valid keys of the nested model at `path`."""
    current: type[BaseModel] = model
    for part in path:
        field = current.model_fields.get(part)
        if field is None:
            continue  # an index or the tag of a union: the next part decides
        for candidate in _models_in(field.annotation):
            current = candidate
    return [f.alias or name for name, f in current.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in getattr(annotation, "__args__", ()) for m in _models_in(a)]


def choose(table: dict[str, Any], key: str, data: dict[str, Any], where: str) -> Any:
    """The entry of `table` that `data[key]` names, or a UserError with the valid names."""
    name = data.get(key)
    if name is None:
        raise UserError(f"{where}: the key '{key}' is required; choose one of {', '.join(table)}")
    if not isinstance(name, str):
        raise UserError(
            f"{where}: {key} must be a word, got {shown(name)}; choose one of {', '.join(table)}"
        )
    if name not in table:
        raise UserError(
            f"{where}: {key} {shown(name)} is unknown{nearest(name, table)}; "
            f"choose one of {', '.join(table)}"
        )
    return table[name]
