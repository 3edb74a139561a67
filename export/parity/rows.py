"""The rows of parity.json: one for each graph and image."""

import json
import math
from pathlib import Path

from compress.core.files import write_text
from export.parity.measure import Noise, finite_db
from export.targets.contract import Row

FILE = "parity.json"
LABEL_WIDTH = 16
CELL_WIDTH = 12


def make_row(file: str, probe: str, db: float, limit: float, noise: Noise | None) -> Row:
    """A row of a measured PSNR `db`, which may be infinite or NaN."""
    return {
        "file": file,
        "probe": probe,
        "psnr_db": finite_db(db),
        "self_db": None if noise is None else noise.self_db,
        "own_db": None if noise is None else noise.own_db,
        "tolerance_db": round(limit, 2),
        "passed": db >= limit,
    }


def write_rows(folder: Path, rows: list[Row]) -> None:
    """Write parity.json, complete or not at all."""
    write_text(folder / FILE, json.dumps(rows, indent=1) + "\n")


def failures(rows: list[Row]) -> str | None:
    """One sentence about the rows that failed, or None."""
    failed = [row for row in rows if not row["passed"]]
    if not failed:
        return None
    worst = min(failed, key=_order)
    reached = "an output that is not finite"
    if worst["psnr_db"] is not None:
        reached = f"{worst['psnr_db']:.1f} dB"
    return (
        f"{len(failed)} of {len(rows)} parity checks are below tolerance; the worst is "
        f"{worst['file']} on the {worst['probe']} probe with {reached} of "
        f"{worst['tolerance_db']:.1f} dB{_simulation_noise(worst)}"
    )


def _order(row: Row) -> float:
    """From the worst on."""
    if row["psnr_db"] is None:
        return -math.inf
    return row["psnr_db"]


def _simulation_noise(row: Row) -> str:
    """How near the simulation is to itself; empty for a float model."""
    if row["self_db"] is None or row["own_db"] is None:
        return ""
    return (
        f" (the torch simulation agrees with itself to {row['self_db']:.1f} dB under rounding "
        f"noise, and to {row['own_db']:.1f} dB without rounding)"
    )


def table(rows: list[Row]) -> str:
    """The rows as text: one line a file, one column a probe."""
    probes = list(dict.fromkeys(row["probe"] for row in rows))
    files = list(dict.fromkeys(row["file"] for row in rows))
    cells = {(row["file"], row["probe"]): _cell(row) for row in rows}
    lines = [_line("parity, dB", probes)]
    for file in files:
        lines.append(_line(file, [cells[file, probe] for probe in probes]))
    return "\n".join(lines)


def _line(label: str, cells: list[str]) -> str:
    return f"{label:{LABEL_WIDTH}}" + "".join(f"{cell:>{CELL_WIDTH}}" for cell in cells)


def _cell(row: Row) -> str:
    if row["psnr_db"] is None:
        return "not finite"
    mark = "" if row["passed"] else " !"
    return f"{row['psnr_db']:.1f}{mark}"
