"""What a sweep may vary: keys of a recipe with choices or ranges, and the points of that space.

    passes.1.weights=4,6,8                       one of these values, as YAML
    passes.0.ratio=0.3:0.9                       any number from 0.3 to 0.9
    passes.0.ratio=0.3:0.9:0.1                   in steps
    passes.2.lr=1e-4:1e-2:log                    evenly in the logarithm
    passes.1=on,off                              the pass as the recipe has it, or none
    passes.1=off,{pass: binarize}                none, or another one
    passes.1.low_rank=8,16 if passes.1.weights=4 only where another key has that value

What lies below a pass that is off does not vary.
"""

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from compress.core.config import override
from compress.core.errors import UserError, nearest, shown
from compress.recipe.recipe import Recipe, parse_recipe

Value = str | int | float
Point = dict[str, Value]  # key -> the text of a choice, or a number of a range

ON, OFF = "on", "off"
LOG = "log"
FORM = (
    "give key=4,6,8, key=0.3:0.9, key=0.3:0.9:0.1 or key=1e-4:1e-2:log, passes.N=on,off, and "
    "behind any of them ' if key=value'"
)
_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER})(?::({_NUMBER}|{LOG}))?")
_CONDITION = re.compile(r"(.*?)\s+if\s+([^=]+?)=(.+)", re.DOTALL)
_PASS = re.compile(r"passes\.([0-9]{1,6})")
_BRACKETS = {"[": "]", "{": "}"}
MOST_POINTS = 100_000  # of a grid


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both taken.

    Attributes:
        low: The smallest.
        high: The largest; with steps it is one of them.
        step: Between two of them; None for any number.
        log: Whether they are spread evenly in the logarithm.
        whole: Whether they are whole.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False
    whole: bool = False

    def values(self) -> list[Value] | None:
        """All of them, ascending; None where there is no end to them."""
        if self.step is None:
            return None
        count = int((self.high - self.low) / self.step + 1e-9) + 1
        numbers = [self.low + index * self.step for index in range(count)]
        return [int(number) if self.whole else float(f"{number:.12g}") for number in numbers]


@dataclass(frozen=True)
class Condition:
    """Where a dimension varies at all: another one has one of these values."""

    key: str
    values: tuple[str, ...]

    def holds(self, point: Mapping[str, Value]) -> bool:
        """Whether it does at a point. What does not vary there has no value."""
        return self.key in point and text_of(point[self.key]) in self.values


@dataclass(frozen=True)
class Dimension:
    """One key that varies.

    Attributes:
        key: As an override has it, such as `passes.1.weights`.
        domain: Texts of YAML, or a range of numbers.
        condition: Where it varies; None for everywhere.
    """

    key: str
    domain: tuple[str, ...] | Range
    condition: Condition | None = None

    def values(self) -> list[Value] | None:
        """All values; None where there is no end to them."""
        return self.domain.values() if isinstance(self.domain, Range) else list(self.domain)

    def ends(self) -> list[Value]:
        """All choices, or both ends of a range: what a check tries."""
        if isinstance(self.domain, Range):
            numbers: list[float] = [self.domain.low, self.domain.high]
            return [int(number) if self.domain.whole else number for number in numbers]
        return list(self.domain)


def text_of(value: Value) -> str:
    """A value as YAML has it."""
    return value if isinstance(value, str) else repr(value)


def parse_dimension(text: str) -> Dimension:
    """A dimension as it is typed.

    Raises:
        UserError: It has no such form, or is an empty range.
    """
    condition = None
    match = _CONDITION.fullmatch(text)
    if match is not None:
        text, key, values = match.groups()
        condition = Condition(key.strip(), tuple(split_choices(values, text)))
    key, equals, domain = text.partition("=")
    if not equals or not key.strip() or not domain.strip():
        raise UserError(f"{shown(text)} says nothing that varies; {FORM}")
    return Dimension(key.strip(), _parse_domain(domain.strip(), text), condition)


def _parse_domain(domain: str, text: str) -> tuple[str, ...] | Range:
    match = _RANGE.fullmatch(domain)
    if match is None:
        return tuple(dict.fromkeys(split_choices(domain, text)))
    low, high, third = match.groups()
    whole = not any(re.search(r"[.eE]", number) for number in (low, high))
    if not float(low) < float(high):
        raise UserError(f"{shown(text)}: the range is empty; give the smaller number first")
    if third == LOG:
        if float(low) <= 0:
            raise UserError(f"{shown(text)}: a logarithm needs numbers above 0; drop :{LOG}")
        return Range(float(low), float(high), None, True, whole)
    step = float(third) if third is not None else (1.0 if whole else None)
    if step is not None and step <= 0:
        raise UserError(f"{shown(text)}: the step must be above 0")
    whole = whole and (third is None or re.search(r"[.eE]", third) is None)
    found = Range(float(low), float(high), step, False, whole)
    numbers = found.values()
    return found if numbers is None else replace(found, high=float(numbers[-1]))


def split_choices(domain: str, text: str) -> list[str]:
    """The choices between commas; a comma within brackets or quotes parts nothing.

    Args:
        domain: What stands behind the equals sign.
        text: The whole, for the sentence of an error.

    Raises:
        UserError: A choice is empty, or a bracket or quote is not closed.
    """
    parts, open_ones, quote, begin = [], [], "", 0
    for place, character in enumerate(domain):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in _BRACKETS:
            open_ones.append(_BRACKETS[character])
        elif open_ones and character == open_ones[-1]:
            open_ones.pop()
        elif character == "," and not open_ones:
            parts.append(domain[begin:place].strip())
            begin = place + 1
    parts.append(domain[begin:].strip())
    if quote or open_ones:
        raise UserError(f"{shown(text)}: {quote or open_ones[-1]} is missing")
    if not all(parts):
        raise UserError(f"{shown(text)}: a choice is empty; {FORM}")
    return parts


@dataclass(frozen=True)
class Space:
    """All that varies, in the order in which it was typed."""

    dimensions: tuple[Dimension, ...]

    def active(self, dimension: Dimension, point: Mapping[str, Value]) -> bool:
        """Whether a dimension varies where the earlier ones have the values of `point`."""
        if dimension.condition is not None and not dimension.condition.holds(point):
            return False
        above = _PASS.match(dimension.key)
        if above is None or above[0] == dimension.key or above[0] not in self.names():
            return True
        return point.get(above[0], OFF) != OFF

    def names(self) -> list[str]:
        """The keys that vary."""
        return [dimension.key for dimension in self.dimensions]

    def points(self) -> Iterator[Point]:
        """Every point, the last dimension fastest, so that neighbours share their first passes.

        Raises:
            UserError: A range has no step.
        """
        for dimension in self.dimensions:
            if dimension.values() is None:
                raise UserError(
                    f"{dimension.key}: a grid needs steps; give {dimension.key}=low:high:step, or "
                    "another --sampler"
                )
        yield from self._below({}, 0)

    def _below(self, point: Point, depth: int) -> Iterator[Point]:
        if depth == len(self.dimensions):
            yield dict(point)
            return
        dimension = self.dimensions[depth]
        if not self.active(dimension, point):
            yield from self._below(point, depth + 1)
            return
        for value in dimension.values() or []:
            yield from self._below({**point, dimension.key: value}, depth + 1)

    def is_finite(self) -> bool:
        """Whether all points can be counted and listed."""
        counts = [dimension.values() for dimension in self.dimensions]
        return prod(MOST_POINTS + 1 if one is None else len(one) for one in counts) <= MOST_POINTS


def parse_space(texts: list[str]) -> tuple[list[str], Space]:
    """What the words behind a recipe say.

    Args:
        texts: As typed.

    Returns:
        Overrides, which have one value each, and what varies.

    Raises:
        UserError: A word has no such form, a key stands twice, or a condition names what does not
            vary before it.
    """
    fixed: list[str] = []
    dimensions: list[Dimension] = []
    for text in texts:
        one = parse_dimension(text)
        if one.key in [other.key for other in dimensions]:
            raise UserError(f"{one.key} stands twice; give all its choices at once")
        if one.condition is not None:
            _check_condition(one.condition, text, dimensions)
        elif not isinstance(one.domain, Range) and one.domain[1:] == () and one.domain[0] != OFF:
            fixed.append(f"{one.key}={one.domain[0]}")
            continue
        dimensions.append(one)
    return fixed, Space(tuple(dimensions))


def _check_condition(condition: Condition, text: str, before: list[Dimension]) -> None:
    known = {dimension.key: dimension for dimension in before}
    if condition.key not in known:
        valid = ", ".join(known) or "none yet"
        raise UserError(
            f"{shown(text)}: {condition.key} does not vary before it"
            f"{nearest(condition.key, known)}; what does: {valid}"
        )
    values = known[condition.key].values()
    if values is None:
        return
    legal = [text_of(value) for value in values]
    for value in condition.values:
        if value not in legal:
            raise UserError(
                f"{shown(text)}: {condition.key} is never {value}; choose from {', '.join(legal)}"
            )


def recipe_at(data: dict[str, Any], space: Space, point: Point, where: str) -> Recipe:
    """The recipe at a point.

    Args:
        data: The recipe as plain data, with the overrides that hold everywhere; it is not changed.
        space: What varies.
        point: Values of what varies there.
        where: What begins the sentence of an error.

    Raises:
        UserError: A key or value is wrong; the valid ones are told.
    """
    data = copy.deepcopy(data)
    dropped = []
    for key in space.names():
        if key not in point:
            continue
        text = text_of(point[key])
        is_pass = _PASS.fullmatch(key)
        if is_pass is not None and text in (ON, OFF):
            _check_index(data, int(is_pass[1]), key)
            dropped += [int(is_pass[1])] if text == OFF else []
            continue
        override(data, [f"{key}={text}"])
    for index in sorted(dropped, reverse=True):
        del data["passes"][index]
    return parse_recipe(data, where)


def _check_index(data: dict[str, Any], index: int, key: str) -> None:
    passes = data.get("passes")
    count = len(passes) if isinstance(passes, list) else 0
    if index >= count:
        raise UserError(f"{key}: the recipe has passes.0 to passes.{count - 1}; choose one of them")


def check_space(data: dict[str, Any], space: Space, where: str) -> None:
    """Try every choice and both ends of every range once, as far as a config can tell.

    Raises:
        UserError: An unknown key or a value that is none; the sentence names what was typed.
    """
    for dimension in space.dimensions:
        for value in dimension.ends():
            point = _around(space, dimension)
            point[dimension.key] = value
            try:
                recipe_at(data, space, point, where)
            except UserError as error:
                raise UserError(f"{dimension.key}={text_of(value)}: {error}") from None


def _around(space: Space, dimension: Dimension) -> Point:
    """A point at which a dimension varies: all that its condition and its pass ask for."""
    known = {one.key: one for one in space.dimensions}
    point: Point = {}
    if dimension.condition is not None:
        point |= _around(space, known[dimension.condition.key])
        point[dimension.condition.key] = dimension.condition.values[0]
    above = _PASS.match(dimension.key)
    if above is not None and above[0] != dimension.key and above[0] in known:
        there = [value for value in known[above[0]].ends() if value != OFF]
        point.setdefault(above[0], there[0] if there else ON)
    return point
