"""YAML as recipes use it: mappings, lists, text, numbers, booleans.

All else ends in one sentence before it is built.

PyYAML's own constructor is left out: it follows aliases and merges without a bound, drops the first
of two equal keys, and ends in Python's errors for tags and numbers that it cannot hold. Here every
key is text as it is written, dates and clock times are text, and an alias gives a copy, so that no
value stands in two places.
"""

import math
import re
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from compress.core.errors import UserError, shown

MOST_BYTES = 256 * 1024  # of a file; the largest shipped recipe has 4 KiB
MOST_NODES = 20_000  # keys and values, with every alias counted as what it stands for
MOST_DEPTH = 32  # of mappings and lists in one another
MOST_TEXT = 4096  # characters of one value: the longest path that Linux takes
MOST_KEY = 512
TEXT_OF_A_NODE = 64  # characters that count as one more key or value
LARGEST = 2**63 - 1
MOST_DIGITS = 70  # enough for 64 bits in any base
_PREFIX = "tag:yaml.org,2002:"
_BOOLEANS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}
_SPELLINGS = [form for word in _BOOLEANS for form in (word, word.title(), word.upper())]
_FORMS = {yaml.ScalarNode: "single value", yaml.SequenceNode: "list", yaml.MappingNode: "mapping"}
_NULLS = ("", "~", "null", "Null", "NULL")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+)")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
# Neither tab nor line break, and no part of a character.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """Text -> nodes, counted while they are read. An alias counts as all that it stands for."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  PyYAML declares it so

    def __init__(self, text: str):
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self.count = 0
        self.depth = 0
        self.sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        """The next node; PyYAML calls this for the document, its keys and its values."""
        event = self.peek_event()
        before = self.count
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise _mistake(
                f"mappings and lists lie more than {MOST_DEPTH} deep in one another; "
                "leave out levels",
                event,
            )
        self._count(1 + len(getattr(event, "value", "")) // TEXT_OF_A_NODE, event)
        node = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self.sizes:
                raise _mistake(
                    f"the alias *{event.anchor} stands inside of what it names; "
                    "write out what is meant",
                    event,
                )
            self._count(self.sizes[id(node)], event)
        else:
            self.sizes[id(node)] = self.count - before
        self.depth -= 1
        return node

    def _count(self, more: int, event: yaml.Event) -> None:
        self.count += more
        if self.count > MOST_NODES:
            raise _mistake(
                f"holds more than {MOST_NODES:,} keys and values, counting what aliases and "
                "merges stand for; write out what is meant, or leave out what is not",
                event,
            )


for _tag, _pattern, _first in (
    ("bool", re.compile("|".join(_SPELLINGS)), "yYnNtTfFoO"),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
    ("merge", re.compile("<<"), "<"),
    ("null", re.compile("~|null|Null|NULL|"), ["~", "n", "N", ""]),
):
    _whole = re.compile(f"(?:{_pattern.pattern})$")
    _Loader.add_implicit_resolver(_PREFIX + _tag, _whole, list(_first))


class _Mistake(yaml.MarkedYAMLError):
    """A sentence of our own, with its place."""


def _mistake(problem: str, at: yaml.Node | yaml.Event) -> _Mistake:
    # types-PyYAML knows the marks of libyaml as another class; they have line and column as well.
    return _Mistake(problem=problem, problem_mark=at.start_mark)  # type: ignore[arg-type]


def read_text(path: Path) -> str:
    """A recipe's text: UTF-8, with a byte order mark or without, in any locale.

    Raises:
        UserError: The file is larger than MOST_BYTES, or is no text in UTF-8.
    """
    with path.open("rb") as stream:
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise UserError(
            f"recipe {path} has more than {MOST_BYTES // 1024} KiB, which no recipe needs; "
            "give a recipe, such as recipes/passionsr_w8a8.yaml"
        )
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"recipe {path} is UTF-16 text; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if b"\0" in data:
            raise UserError(f"recipe {path} is a binary file; give a YAML text in UTF-8") from None
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"recipe {path} is no UTF-8 text (byte 0x{data[error.start]:02x} in line {line}); "
            "save it as UTF-8"
        ) from None
    return text


def parse(text: str, where: str) -> Any:
    """The one document in `text`.

    It consists of dicts with text keys, lists, str, int, finite float, bool and None.

    Args:
        text: YAML.
        where: What a sentence begins with, such as "recipe a.yaml".

    Raises:
        UserError: No valid YAML, two documents, two equal keys, an alias inside of what it names,
            more than MOST_NODES, MOST_DEPTH or MOST_TEXT, a tag, number or character that no recipe
            needs.
    """
    control = _CONTROL.search(text)
    if control is not None:
        line = text.count("\n", 0, control.start()) + 1
        raise UserError(
            f"{where} holds the character U+{ord(control[0]):04X} in line {line}, which YAML does "
            "not allow; remove it"
        )
    try:
        node = _Loader(text).get_single_node()
        if node is None:
            return None
        return _build(node)
    except yaml.reader.ReaderError as error:
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise UserError(
            f"{where} holds the character U+{code:04X}, which YAML does not allow; remove it"
        ) from None
    except _Mistake as error:
        raise UserError(f"{where}: {error.problem} ({_place(error.problem_mark)})") from None
    except yaml.MarkedYAMLError as error:
        problem = " ".join(part for part in (error.context, error.problem) if part)
        place = _place(error.problem_mark or error.context_mark)
        raise UserError(
            f"{where} is not valid YAML: {problem} ({place}); "
            "values with : # { [ , & * ? | - > ! % @ want quotes"
        ) from None


def _place(mark: yaml.Mark | None) -> str:
    if mark is None:
        return "no line is known"
    return f"line {mark.line + 1}, column {mark.column + 1}"


def _build(node: yaml.Node) -> Any:
    kind = node.tag.removeprefix(_PREFIX)
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_build(child) for child in node.value]
    if isinstance(node, yaml.MappingNode) and kind == "map":
        return _mapping(node)
    if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
        _check_scalar(node, kind)
        return _SCALARS[kind](node)
    form = _FORMS[type(node)]
    raise _mistake(
        f"the tag {shown(node.tag.replace(_PREFIX, '!!'))} on a {form} is not taken; recipes hold "
        "mappings, lists, text, numbers, true, false and null, without tags",
        node,
    )


def _check_scalar(node: yaml.ScalarNode, kind: str) -> None:
    if kind == "str" and len(node.value) > MOST_TEXT:
        raise _mistake(
            f"a value has {len(node.value):,} characters, and at most {MOST_TEXT:,} are taken",
            node,
        )
    control = _CONTROL.search(node.value)
    if control is not None:
        raise _mistake(f"a value holds the character U+{ord(control[0]):04X}; leave it out", node)


def _mapping(node: yaml.MappingNode) -> dict[str, Any]:
    """Own keys win over merged ones, and earlier merged ones over later, as YAML has it."""
    lines: dict[str, int] = {}
    merged: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _mistake("a key is a list or a mapping; keys are words", key)
        name = key.value
        line = key.start_mark.line + 1
        if name in lines:
            raise _mistake(
                f"the key {shown(name)} stands twice, in lines {lines[name]} and {line}; "
                "keep one of them",
                key,
            )
        lines[name] = line
        if key.tag == _PREFIX + "merge":
            merged = _merged(value)
            continue
        if len(name) > MOST_KEY or _CONTROL.search(name):
            raise _mistake(
                f"the key {shown(name)} is none: keys have at most {MOST_KEY} characters and no "
                "control characters",
                key,
            )
        own[name] = _build(value)
    return own | {name: merged[name] for name in merged if name not in own}


def _merged(node: yaml.Node) -> dict[str, Any]:
    parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
    merged: dict[str, Any] = {}
    for part in parts:
        if not isinstance(part, yaml.MappingNode):
            raise _mistake(
                "<< merges mappings only; give an alias of a mapping, or a list of such", node
            )
        merged = _mapping(part) | merged
    return merged


def _text(node: yaml.ScalarNode) -> str:
    return node.value


def _boolean(node: yaml.ScalarNode) -> bool:
    if node.value.lower() not in _BOOLEANS:
        raise _mistake(f"{shown(node.value)} is no truth value; write true or false", node)
    return _BOOLEANS[node.value.lower()]


def _null(node: yaml.ScalarNode) -> None:
    if node.value not in _NULLS:
        raise _mistake(f"{shown(node.value)} is not null; leave out the tag, or the value", node)


def _integer(node: yaml.ScalarNode) -> int:
    if not _INT.fullmatch(node.value):
        raise _mistake(f"{shown(node.value)} is no whole number; write one such as 8", node)
    digits = node.value.replace("_", "")
    # Python reads and prints no decimal number of more than 4,300 digits.
    value = int(digits, 0) if len(digits) <= MOST_DIGITS else LARGEST + 1
    if abs(value) > LARGEST:
        raise _mistake(
            f"the number {shown(node.value)} is too large; whole numbers lie between -2^63 and "
            "2^63, and what is text stands in quotes",
            node,
        )
    return value


def _number(node: yaml.ScalarNode) -> float:
    text = node.value.replace("_", "").lower()
    is_whole = _INT.fullmatch(node.value) is not None
    if not is_whole and not _FLOAT.fullmatch(node.value):
        raise _mistake(f"{shown(node.value)} is no number; write one such as 0.5", node)
    if "inf" in text or "nan" in text:
        raise _mistake(
            f"the number {shown(node.value)} is not finite; "
            "write one such as 0.5, and text in quotes",
            node,
        )
    value = float(_integer(node)) if is_whole else float(text)
    if not math.isfinite(value):
        raise _mistake(
            f"the number {shown(node.value)} is too large for 64 bits; write one such as 0.5", node
        )
    return value


_SCALARS = {"str": _text, "bool": _boolean, "null": _null, "int": _integer, "float": _number}
