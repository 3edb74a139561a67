"""User input: YAML, then overrides, then pydantic. Errors name the key and the valid ones."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from compress.core import yaml_text
from compress.core.errors import UserError, nearest, shown
from compress.core.yaml_text import MOST_DEPTH

# A part of an override's key: a word without dots, or anything in quotes.
_PART = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([^."'=\s][^."'=]*))(\.|=|$)""")


class Strict(BaseModel):
    """The base of every config: a key that it does not have is refused, and no value changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=BaseModel)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a recipe file, which no other object holds a part of.

    Raises:
        UserError: The file is missing, no UTF-8 text, or no YAML that recipes are made of
            (`yaml_text.parse`).
    """
    path = Path(path)
    problem = _why_no_file(path)
    if problem is not None:
        raise UserError(
            f"recipe {path} {problem}; the recipes that come with the project are under recipes/"
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


def _why_no_file(path: Path) -> str | None:
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
    """Apply `a.b.0.c=value` to nested mappings and lists, in their order.

    A part of the key that has dots itself stands in quotes: `passes.1.pins."decoder.conv_in"=8`.
    The value is YAML. Validation comes afterwards.

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
        parts, text = _split_assignment(assignment)
        _assign(data, parts, text)
    return data


def _assign(data: dict[str, Any], parts: list[str], text: str) -> None:
    """Set the value at the end of the path `parts` to what the YAML `text` says."""
    key = ".".join(parts)
    *parents, last = parts
    node: Any = data
    for depth, part in enumerate(parents, 1):
        node = _child(node, part, ".".join(parts[:depth]), key)
    value = yaml_text.parse(text, f"override {shown(key)}: the value")
    if isinstance(node, list):
        node[_index(node, last, key)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise _no_keys(key, ".".join(parents))


def _no_keys(key: str, place: str) -> UserError:
    return UserError(f"override {shown(key)}: {shown(place)} holds a single value and has no keys")


def _split_assignment(assignment: str) -> tuple[list[str], str]:
    """The parts of the key, and the value's text."""
    parts: list[str] = []
    position = 0
    while len(parts) < MOST_DEPTH:
        match = _PART.match(assignment, position)
        if match is None or not match[4]:
            raise UserError(
                f"override {shown(assignment)} is not of the form key=value, such as "
                "source.size=sd21; "
                "keys are words with dots between, in quotes where a word has a dot itself"
            )
        spellings = [text for text in match.groups()[:3] if text is not None]
        parts.append(spellings[0].strip())
        position = match.end()
        if match[4] == "=":
            return parts, assignment[position:]
    raise UserError(
        f"override {shown(assignment)}: a key has at most {MOST_DEPTH} parts; no recipe is so deep"
    )


def _index(node: list[Any], part: str, key: str) -> int:
    """The index into the list `node` that `part` writes."""
    if re.fullmatch(r"[0-9]{1,6}", part):
        index = int(part)
        if index < len(node):
            return index
    legal = f"0 to {len(node) - 1}" if node else "it is empty"
    raise UserError(
        f"override {shown(key)}: {shown(part)} is no index into a list of {len(node)} ({legal})"
    )


def _child(node: Any, part: str, where: str, key: str) -> Any:
    """The mapping or list under `part` of `node`; an empty mapping is made where there is none."""
    if isinstance(node, list):
        return node[_index(node, part, key)]
    if isinstance(node, dict):
        return node.setdefault(part, {})
    raise _no_keys(key, where.rpartition(".")[0])


def validate(model: type[M], data: Any, where: str) -> M:
    """`model(**data)`, its first validation error turned into one sentence.

    Args:
        model: The config's class.
        data: A mapping, as read.
        where: What a sentence begins with, such as "a.yaml: source".

    Raises:
        UserError: What pydantic refuses; also true or false where a number is wanted, and numbers
            that are not finite, both of which pydantic takes.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where}: must be a mapping of keys to values, got {shown(data)}")
    try:
        config = model.model_validate(data)
    except ValidationError as error:
        raise UserError(_sentence(model, error, where)) from None
    except RecursionError:
        raise UserError(
            f"{where}: mappings and lists lie too deep in one another; leave out levels"
        ) from None
    _check_numbers(data, config, where)
    return config


def _check_numbers(given: Any, became: Any, where: str) -> None:
    """Walk what was given beside what it became, and check every number."""
    if isinstance(became, (BaseModel, dict, list, tuple)):
        for inner_given, inner, place in _pairs(given, became, where):
            _check_numbers(inner_given, inner, place)
        return
    if isinstance(became, bool) or not isinstance(became, (int, float)):
        return
    if isinstance(became, float) and not math.isfinite(became):
        raise UserError(f"{where}: {became} is not finite; write a number such as 0.5")
    if isinstance(given, bool):
        raise UserError(f"{where}: takes a number, got {shown(given)}; write one such as 8")


def _pairs(given: Any, became: Any, where: str) -> Iterator[tuple[Any, Any, str]]:
    """(as given or None, as it became, its place) of everything right below `became`."""
    keys = given if isinstance(given, dict) else {}
    if isinstance(became, BaseModel):
        for name, field in type(became).model_fields.items():
            alias = field.alias or name
            yield keys.get(alias, keys.get(name)), getattr(became, name), f"{where}: {name}"
    elif isinstance(became, dict):
        for name, value in became.items():
            yield keys.get(name), value, f"{where}.{name}"
    else:
        same = isinstance(given, (list, tuple)) and len(given) == len(became)
        items = given if same else [None] * len(became)
        for i, value in enumerate(became):
            yield items[i], value, f"{where}.{i}"


def _sentence(model: type[BaseModel], error: ValidationError, where: str) -> str:
    """The first of pydantic's errors as one sentence."""
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    place = f"{where}: {'.'.join(path)}" if path else where
    if first["type"] == "extra_forbidden":
        valid = _keys_at(model, path[:-1])
        return f"{place}: unknown key{nearest(path[-1], valid)}; valid keys: {', '.join(valid)}"
    if first["type"] == "missing":
        return f"{place}: this key is required; add it to the recipe"
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    if isinstance(given, (dict, list, BaseModel)):
        return f"{place}: {message}"
    if repr(given) not in message and shown(given) not in message:
        message += f", got {shown(given)}"
    if first["type"] == "string_type":
        message += "; put it in quotes if it is text"
    return f"{place}: {message}"


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the valid keys of the nested model at `path`."""
    current = model
    for part in path:
        field = current.model_fields.get(part)
        if field is None:
            continue  # an index or the tag of a union: the next part decides
        for candidate in _models_in(field.annotation):
            current = candidate
    return [field.alias or name for name, field in current.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The configs that a type consists of: itself, or the members of a union or a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    models: list[type[BaseModel]] = []
    for argument in getattr(annotation, "__args__", ()):
        models += _models_in(argument)
    return models


def choose(table: Mapping[str, Any], key: str, data: dict[str, Any], where: str) -> Any:
    """The entry of `table` that `data[key]` names.

    Args:
        table: By name, such as ALL_PASSES.
        key: The key of `data` with the name, such as `pass`.
        data: A mapping, as read.
        where: What a sentence begins with.

    Raises:
        UserError: The key is missing or its value is no name in `table`; the valid names are told.
    """
    name = data.get(key)
    choices = f"choose one of {', '.join(table)}"
    if name is None:
        raise UserError(f"{where}: the key '{key}' is required; {choices}")
    if not isinstance(name, str):
        raise UserError(f"{where}: {key} must be a word, got {shown(name)}; {choices}")
    if name not in table:
        raise UserError(f"{where}: {key} {shown(name)} is unknown{nearest(name, table)}; {choices}")
    return table[name]
