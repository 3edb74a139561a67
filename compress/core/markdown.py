"""Configs as Markdown: tables, and the types of a JSON schema in words."""

import inspect
import json
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]
# Keyword of a JSON schema -> how a bound reads.
BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
    "multipleOf": "a multiple of",
}
WORDS = {"boolean": "true or false", "null": "null", "string": "text", "object": "mapping"}


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; a bar within a cell is escaped."""
    lines = [_row(heads), _row(["---"] * len(heads))]
    lines += [_row(row) for row in rows]
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def docstring(config: type[BaseModel]) -> str:
    """The docstring of a config; empty for one that has none of its own."""
    return inspect.cleandoc(config.__doc__ or "")


def describe_type(form: Schema, definitions: Schema) -> str:
    """What values a property of a JSON schema takes, in words, with its bounds.

    Args:
        form: The schema of one property.
        definitions: What `$ref` in it may name, by name.
    """
    if "$ref" in form:
        name = form["$ref"].rpartition("/")[2]
        target = definitions.get(name, {})
        if "enum" in target:
            return describe_type(target, definitions)
        return f"[{name}](#{name.lower()})"
    for union in ("anyOf", "oneOf"):
        if union in form:
            words = [describe_type(option, definitions) for option in form[union]]
            return " or ".join(dict.fromkeys(words))
    if "const" in form:
        return f"`{form['const']}`"
    if "enum" in form:
        return ", ".join(f"`{value}`" for value in form["enum"])
    kind = form.get("type")
    if kind == "array":
        return _array(form, definitions)
    if kind == "object":
        return _mapping(form, definitions)
    word = "anything" if kind is None else WORDS.get(kind, str(kind))
    return word + _bounds(form)


def _array(form: Schema, definitions: Schema) -> str:
    if "prefixItems" in form:
        words = [describe_type(item, definitions) for item in form["prefixItems"]]
        if len(words) > 1 and len(set(words)) == 1:
            return f"list of {len(words)} values, each {words[0]}"
        return f"[{', '.join(words)}]"
    return f"list{_length(form)} of {describe_type(form.get('items', {}), definitions)}"


def _length(form: Schema) -> str:
    least, most = form.get("minItems", 0), form.get("maxItems")
    if most is not None:
        return f" ({least} to {most} long)"
    return f" (at least {least} long)" if least else ""


def _mapping(form: Schema, definitions: Schema) -> str:
    values = form.get("additionalProperties")
    if not isinstance(values, dict):
        return "mapping"
    names = describe_type(form.get("propertyNames", {"type": "string"}), definitions)
    return f"mapping of {names} to {describe_type(values, definitions)}"


def _bounds(form: Schema) -> str:
    found = [f"{words} {_number(form[key])}" for key, words in BOUNDS.items() if key in form]
    return f", {', '.join(found)}" if found else ""


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:g}"


def describe_default(form: Schema) -> str:
    """The default of a property as a recipe writes it; empty where there is none to show."""
    if "default" not in form:
        return ""
    return f"`{json.dumps(form['default'], ensure_ascii=False)}`"
