"""What a target takes, as data: tables of operators in export/rules, and their conditions.

A condition is `key=value` or `key=one|other` or, for numbers, `key<=n`, `key>n`, `key>=n`; all of a
row must hold. Keys: `rank` (of the largest activation), `kernel` and `other` (constant or computed:
the second operand), `axis` (last, or its number), `axes`, `groups` (one, depthwise, several),
`kernel_side`, `channels`, `side`, `strided`, `dilated`, `padded`, `spatial` (axes behind the
channels), `batch`, `scale` and `resized` (of a Resize), `aligned` (channels of a computed kernel in
multiples of 16), `step` (of a Slice), `of` (the operator that made the first input), `codes` and
`zero_point` (of quantisers), `type`, and every attribute by its name.

A rule speaks of what it names, and of plain nodes otherwise: an attribute or fact that is not as
the probe built it, or in a table not the operator's default, is covered only where the condition
names it, or all of them by `*`. What no rule covers is unknown. That a rule refuses a node needs no
more than its condition.
"""

import csv
import operator
import re
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from compress.core.errors import UserError, nearest
from export.linting.operators import PLAIN, defaults, of_attributes, shown

FOLDER = files("export") / "rules"
SUPPORTED, POOR, UNSUPPORTED, UNKNOWN = "supported", "poor", "unsupported", "unknown"
LATEST = 99  # opset
PART = re.compile(r"(\w+)(<=|>=|=|<|>)(\S+)")  # of a condition
TESTS = {"<=": operator.le, ">=": operator.ge, ">": operator.gt, "<": operator.lt}


@dataclass(frozen=True)
class Rule:
    """What a target does with nodes of one kind.

    Attributes:
        name: Of the operator form, or of the operator.
        op: The operator.
        when: The condition that a node meets.
        verdict: Of a table's row.
        note: Why.
        source: Where the row is from.
        figures: Precision -> dB, or None where that precision is not supported; None for a table's
            row.
        built: What the measured graph had: attributes, and facts that are not plain.
    """

    name: str
    op: str
    when: str
    verdict: str = ""
    note: str = ""
    source: str = ""
    figures: dict[str, float | None] | None = None
    built: dict[str, Any] = field(default_factory=dict)

    def uncovered(self, facts: dict[str, Any]) -> list[str]:
        """The marks of a node that this rule says nothing about, as `key=value`."""
        parts = self.when.split()
        if "*" in parts:
            return []
        named = {re.split(r"\W", part)[0] for part in parts}
        if "rank" in named:
            named.add("spatial")
        named |= {key for key, value in facts.items() if value is None and key not in self.built}
        plain = defaults(self.op, LATEST) | PLAIN | self.built
        return [
            f"{key}={facts[key]}"
            for key in facts.get("marks", ())
            if key not in named and str(facts[key]) != str(plain.get(key))
        ]


@dataclass(frozen=True)
class Target:
    """What a chip or a runtime takes.

    Attributes:
        name: What `--target` calls it.
        title: Its name for a reader.
        rules: Operator -> its rules, in order.
        float_type: What it computes floats in: `fp16` or `fp32`.
        max_rank: The most axes that a tensor may have.
        max_bytes: The largest file that it loads.
        source: Where the rules are from.
        static: Whether it compiles for one size.
        types: What nodes may compute with.
        opsets: The first and the last version of the operators that the rules are for.
        wrong_below: dB, below which a measured figure is wrong.
        poor_below: dB, below which it is poor.
        measured_in: The precision whose figures stand for floats, where it is not `float_type`.
    """

    name: str
    title: str
    rules: dict[str, list[Rule]]
    float_type: str
    max_rank: int
    max_bytes: int
    source: str
    static: bool = True
    types: tuple[str, ...] = ("float",)
    opsets: tuple[int, int] = (1, LATEST)
    wrong_below: float = 0.0
    poor_below: float = 0.0
    measured_in: str = ""


@cache
def targets() -> dict[str, dict[str, Any]]:
    """Name -> what export/rules/targets.yaml says of a target."""
    return yaml.safe_load((FOLDER / "targets.yaml").read_text(encoding="utf-8"))


@cache
def forms() -> dict[str, dict[str, Any]]:
    """Name -> operator form: what the probe builds and the lint matches."""
    return yaml.safe_load((FOLDER / "forms.yaml").read_text(encoding="utf-8"))


def figures(text: str, where: str) -> dict[str, dict[str, float | None]]:
    """Form -> precision -> dB, None for unsupported, from a probe's CSV.

    Args:
        text: The CSV.
        where: Its name, for the error.

    Raises:
        UserError: It has no column `form`.
    """
    rows = list(csv.DictReader(text.splitlines()))
    if not rows or "form" not in rows[0]:
        raise UserError(
            f"{where}: not a table of the probe (no column 'form'); write one with python -m "
            "export.probe"
        )
    return {row.pop("form"): _cells(row) for row in rows}


def _cells(row: dict[str, str]) -> dict[str, float | None]:
    """Precision -> dB, None for unsupported; what was not measured is left out."""
    measured = {name: cell for name, cell in row.items() if cell}
    cells: dict[str, float | None] = {}
    for name, cell in measured.items():
        cells[name] = None if cell == "unsupported" else float(cell)
    return cells


def load(name: str, arch: str | None = None, table: Path | None = None) -> Target:
    """The rules of a target.

    Args:
        name: The target.
        arch: Another chip of it, whose figures are in export/rules.
        table: Figures of another chip, a CSV of the probe.

    Raises:
        UserError: There is no such target, chip or table, or the target has no figures.
    """
    known = targets()
    if name not in known:
        raise UserError(
            f"lint target '{name}' is unknown{nearest(name, known)}; choose one of "
            f"{', '.join(known)}"
        )
    data = known[name]
    if "forms" in data:
        rules = _measured_rules(name, arch, table)
    elif arch or table:
        measured = ", ".join(one for one in known if "forms" in known[one])
        raise UserError(
            f"--arch and --table are for targets with measured figures ({measured}), not for {name}"
        )
    else:
        rules = _written_rules(data["table"])
    grouped: dict[str, list[Rule]] = {}
    for rule in rules:
        grouped.setdefault(rule.op, []).append(rule)
    first, last = data.get("opsets", (1, LATEST))
    return Target(
        name,
        data["title"],
        grouped,
        data["float"],
        data["max_rank"],
        data["max_bytes"],
        data["source"],
        data["static"],
        tuple(data["types"]),
        (first, last),
        data.get("wrong_below", 0.0),
        data.get("poor_below", 0.0),
        data.get("measured_in", ""),
    )


def _measured_rules(name: str, arch: str | None, table: Path | None) -> list[Rule]:
    """A rule for each operator form, with the figures of a chip."""
    data = targets()[name]
    if arch and "arch" not in data:
        raise UserError(f"--arch: {name} has no chips to choose from; leave it out")
    file: Path | Traversable = FOLDER / data["figures"].format(arch=arch or data.get("arch"))
    if table:
        file = Path(table)
    if not file.is_file():
        raise UserError(
            f"there are no figures for {name} {arch or ''} ({file.name}); measure them with "
            f"python -m export.probe --arch {arch} -o FILE.csv and give --table FILE.csv"
        )
    measured = figures(file.read_text(encoding="utf-8"), file.name)
    rules = []
    for form, spec in forms().items():
        cells = measured.get(form, {})
        rules.append(Rule(form, spec["op"], spec["when"], figures=cells, built=_built(spec)))
    return rules


def _built(spec: dict[str, Any]) -> dict[str, Any]:
    """What a form's graph has: attributes, and facts that are not plain."""
    attributes = spec.get("at", {})
    built = {name: shown(value) for name, value in attributes.items()}
    built |= of_attributes(spec["op"], attributes)
    built["outputs"] = 1
    if "x" in spec:
        built["spatial"] = len(spec["x"][0]) - 2
    return built


def _written_rules(table: str) -> list[Rule]:
    """The rows of a table of export/rules."""
    lines = (FOLDER / table).read_text(encoding="utf-8").splitlines()
    return [
        Rule(row["op"], row["op"], row["when"], row["verdict"], row["note"], row["source"])
        for row in csv.DictReader(lines)
    ]


def meets(condition: str, facts: dict[str, Any]) -> bool:
    """Whether the facts of a node meet every part of a rule's condition."""
    return all(_holds(part, facts) for part in condition.split() if part != "*")


def _holds(part: str, facts: dict[str, Any]) -> bool:
    match = PART.fullmatch(part)
    if match is None or match[1] not in facts:
        return False
    value = facts[match[1]]
    if match[2] == "=":
        return str(value) in match[3].split("|")
    return TESTS[match[2]](float(value), float(match[3]))
