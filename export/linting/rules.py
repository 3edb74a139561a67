"""What a target takes, as data: tables of operators in export/rules, and how a node of a graph
meets their conditions.

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
from pathlib import Path

import yaml

from compress.core.errors import UserError, nearest
from export.linting.facts import PLAIN, defaults, of_attributes, shown

FOLDER = files("export") / "rules"
SUPPORTED, POOR, UNSUPPORTED, UNKNOWN = "supported", "poor", "unsupported", "unknown"
LATEST = 99  # opset
TESTS = {"<=": operator.le, ">=": operator.ge, ">": operator.gt, "<": operator.lt}


@dataclass(frozen=True)
class Rule:
    """`figures`: precision -> dB, or None where that precision is not supported; empty for a
    table's row. `built`: what the measured graph had (attributes and facts that are not plain).
    """

    name: str
    op: str
    when: str
    verdict: str = ""
    note: str = ""
    source: str = ""
    figures: dict[str, float | None] | None = None
    built: dict[str, object] = field(default_factory=dict)

    def uncovered(self, facts: dict[str, object]) -> list[str]:
        """The marks of a node that this rule says nothing about, as `key=value`."""
        parts = self.when.split()
        if "*" in parts:
            return []
        named = {re.match(r"\w+", part)[0] for part in parts}
        named |= {"spatial"} if "rank" in named else set()
        plain = defaults(self.op, LATEST) | PLAIN | self.built
        return [
            f"{key}={facts[key]}"
            for key in facts.get("marks", ())
            if key not in named and str(facts[key]) != str(plain.get(key))
        ]


@dataclass(frozen=True)
class Target:
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


@cache
def targets() -> dict[str, dict]:
    return yaml.safe_load((FOLDER / "targets.yaml").read_text(encoding="utf-8"))


@cache
def forms() -> dict[str, dict]:
    """Name -> operator form: what the probe builds and the lint matches."""
    return yaml.safe_load((FOLDER / "forms.yaml").read_text(encoding="utf-8"))


def figures(text: str, where: str) -> dict[str, dict[str, float | None]]:
    """Form -> precision -> dB, None for unsupported, from a probe's CSV."""
    rows = list(csv.DictReader(text.splitlines()))
    if not rows or "form" not in rows[0]:
        raise UserError(
            f"{where}: not a table of the probe (no column 'form'); write one with python -m export.probe"
        )
    return {
        row.pop("form"): {
            name: None if cell == "unsupported" else float(cell)
            for name, cell in row.items()
            if cell
        }
        for row in rows
    }


def load(name: str, arch: str | None = None, table: Path | None = None) -> Target:
    """The rules of a target; `arch` and `table` (a CSV of the probe) choose another chip. Raises UserError."""
    known = targets()
    if name not in known:
        raise UserError(
            f"lint target '{name}' is unknown{nearest(name, known)}; choose one of {', '.join(known)}"
        )
    data, rules = known[name], {}
    if "forms" in data:
        file = Path(table) if table else FOLDER / data["figures"].format(arch=arch or data["arch"])
        if not file.is_file():
            raise UserError(
                f"there are no figures for {name} {arch or ''} ({file.name}); measure them with python -m "
                f"export.probe --arch {arch} -o FILE.csv and give --table FILE.csv"
            )
        measured = figures(file.read_text(encoding="utf-8"), file.name)
        for form, spec in forms().items():
            at = spec.get("at", {})
            built = {name: shown(value) for name, value in at.items()}
            built |= of_attributes(spec["op"], at)
            built |= {"outputs": 1} | ({"spatial": len(spec["x"][0]) - 2} if "x" in spec else {})
            rule = Rule(form, spec["op"], spec["when"], figures=measured.get(form, {}), built=built)
            rules.setdefault(rule.op, []).append(rule)
    elif arch or table:
        raise UserError(
            f"--arch and --table are for targets with measured figures (qnn), not for {name}"
        )
    else:
        for row in csv.DictReader(
            (FOLDER / data["table"]).read_text(encoding="utf-8").splitlines()
        ):
            rule = Rule(
                row["op"], row["op"], row["when"], row["verdict"], row["note"], row["source"]
            )
            rules.setdefault(rule.op, []).append(rule)
    return Target(
        name,
        data["title"],
        rules,
        data["float"],
        data["max_rank"],
        data["max_bytes"],
        data["source"],
        data["static"],
        tuple(data["types"]),
        tuple(data.get("opsets", (1, LATEST))),
        data.get("wrong_below", 0.0),
        data.get("poor_below", 0.0),
    )


def meets(condition: str, facts: dict[str, object]) -> bool:
    """Whether the facts of a node meet every condition of a rule."""
    for part in condition.split():
        if part == "*":
            continue
        match = re.fullmatch(r"(\w+)(<=|>=|=|<|>)(\S+)", part)
        if match is None or match[1] not in facts:
            return False
        have, test, wanted = facts[match[1]], match[2], match[3]
        if test == "=" and str(have) not in wanted.split("|"):
            return False
        if test != "=" and not TESTS[test](float(have), float(wanted)):
            return False
    return True
