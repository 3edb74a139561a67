"""User input: YAML -> overrides -> pydantic, with errors that name the key, the valid ones and the nearest spelling."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from compress.errors import UserError, nearest

M = TypeVar("M", bound=BaseModel)


def read_yaml(path: str | Path) -> dict[str, Any]:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"recipe {path} does not exist; the recipes that come with the project are under recipes/")
    try:
        data = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"recipe {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"recipe {path} is not a mapping of keys to values; see recipes/ for examples")
    return data


def override(data: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Apply `a.b.0.c=value` to nested mappings and lists; the value is YAML. Validation comes afterwards."""
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator or not key:
            raise UserError(f"override '{assignment}' is not of the form key=value, such as source.size=sd21")
        *parents, last = key.split(".")
        node: Any = data
        for i, part in enumerate(parents):
            node = _child(node, part, ".".join(parents[:i + 1]), key)
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"override '{assignment}': '{value}' is not a YAML value") from None
        if isinstance(node, list):
            node[_index(node, last, key)] = parsed
        elif isinstance(node, dict):
            node[last] = parsed
        else:
            raise UserError(f"override '{assignment}': {'.'.join(parents)} holds a single value and has no keys")
    return data


def _index(node: list, part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise UserError(f"override '{key}': '{part}' is no index into a list of {len(node)} (0 to {len(node) - 1})")
    return int(part)


def _child(node: Any, part: str, where: str, key: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, key)]
    if isinstance(node, dict):
        return node.setdefault(part, {})
    raise UserError(f"override '{key}': {where} holds a single value and has no keys")


def validate(model: type[M], data: Any, where: str) -> M:
    """`model(**data)`, its first validation error turned into one sentence."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise UserError(_sentence(model, error, where)) from None


def _sentence(model: type[BaseModel], error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    path = [str(p) for p in first["loc"]]
    at = f"{where}: {'.'.join(path)}" if path else where
    if first["type"] == "extra_forbidden":
        valid = _fields_at(model, path[:-1])
        return f"{at}: unknown key{nearest(path[-1], valid)}; valid keys: {', '.join(valid)}"
    if first["type"] == "missing":
        return f"{at}: this key is required; add it to the recipe"
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    shown = f", got {given!r}" if not isinstance(given, (dict, list)) and repr(given) not in message else ""
    return f"{at}: {message}{shown}"


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
    if name not in table:
        raise UserError(f"{where}: {key} '{name}' is unknown{nearest(str(name), table)}; "
                        f"choose one of {', '.join(table)}")
    return table[name]
