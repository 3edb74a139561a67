"""The table of sources, recipes and targets at full size: what is measured, or why it is not."""

from collections.abc import Mapping
from typing import Any

from compress.core import markdown
from eval.results.datafile import Data
from eval.results.full_sizes import FULL_SIZES, PAPER, FullSize
from eval.results.measurements.full_sizes import BY_TARGET, CODES, WAYS, key_of, why_empty
from eval.results.said import NONE, cell
from export.targets.table import REASONS, TARGETS

UNMEASURED = "not measured yet"
LEFT_OUT = ("web",)  # whose files are those of onnx


def grid(data: Mapping[str, Data]) -> str:
    """The table, with a row for each source and recipe and a column for each target.

    Args:
        data: The files of results by the names of measurements.
    """
    targets = [target for target in TARGETS if target not in LEFT_OUT]
    lines = []
    for one in FULL_SIZES:
        for way in WAYS:
            cells = [_cell(one, way, target, data) for target in targets]
            lines.append([one.label, _recipe(one, way), *cells])
    return markdown.table(["source", "recipe", *targets], lines)


def reasons() -> str:
    """Why cells of `grid` have no job, as a list: one line for each target that has such cells."""
    lines = []
    for name, target in TARGETS.items():
        if name in LEFT_OUT:
            continue
        if not target.runs:
            lines.append(f"- {name}: {target.remark}")
        elif (name, CODES) in REASONS:
            lines.append(f"- {name} has no {CODES}: {REASONS[name, CODES]}")
    return "\n".join(lines)


def _recipe(one: FullSize, way: str) -> str:
    if way == PAPER and isinstance(one.paper, str):
        return f"none: {one.paper}"
    return one.title(way)


def _cell(one: FullSize, way: str, target: str, data: Mapping[str, Data]) -> str:
    if one.recipe(way) is None:
        return NONE
    why = why_empty(one, way, target)
    if why is not None:
        return why
    measurement = BY_TARGET[target]
    found = data.get(measurement.name)
    rows = [row for row in found["rows"] if row["job"] == key_of(one, way)] if found else []
    return _measured(rows[0], target) if rows else UNMEASURED


def _measured(row: dict[str, Any], target: str) -> str:
    if row.get("error") is not None:
        return str(row["error"])
    columns = {column.key: column for column in BY_TARGET[target].columns}
    size, parity = (cell(row[key], columns[key]) for key in ("megabytes", "parity_db"))
    end = "" if row["passed"] else ", too few"
    return f"{size} MB, {parity} dB{end}"
