"""AdcSR beside OSEDiff on a GPU, and training steps of recipes/adcsr_paper.yaml: one command.

    python tests/bench/bench_gpu.py --cells FILE [--device cuda|cpu] [--size sd21|nano]
        [--seconds 540] [--json FILE]
    python tests/bench/bench_gpu.py --cells FILE --collect --json FILE

Protocol of the papers' latency tables: batch 1, 128x128 -> 512x512, one process, warmed up, the
device waited for after each call. Both models run in turns, so that the ratio holds on another day.
Weights are random: only their sizes matter for speed. OSEDiff is as it is deployed, its prompt and
timestep folded and without the tagger, which makes it faster than in its paper.

Each cell is a process of its own and leaves an entry of FILE: its rows, or why it was not run. What
is there already is not run again, so a killed command goes on. --device cpu is a dry run of every
code path: with --size nano in minutes, and traced and not compiled. --collect runs nothing.

On a lent GPU (ten minutes; docs/results/gpu.md says what to carry):

    tests/bench/lent_gpu.sh
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from gpu_cells import CELLS, SIZES, measure_cell, where
from rows import add_json, write_rows

from compress.core.errors import UserError, command
from compress.core.files import write_text
from compress.core.json_files import read_json

LEAST_SECONDS = 20  # that a cell needs to be begun
LONGEST_CELL = 240  # seconds
REPEATS = {"cuda": 60, "cpu": 3}
STEPS = {"cuda": 4, "cpu": 2}
# What counts most comes first: the time may end.
ORDER = (
    "eager",
    "train student, recomputed",
    "bf16 compiled",
    "w8a8 compiled",
    "train student",
    "fp16 compiled",
    "train decoder, recomputed",
    "train decoder",
    "tensorrt fp16",
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--cells", type=Path, required=True, metavar="FILE", help="JSON")
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    p.add_argument("--size", choices=tuple(SIZES), default="sd21")
    p.add_argument("--seconds", type=float, default=540, help="of all cells (default 540)")
    p.add_argument("--only", choices=ORDER, nargs="+", default=ORDER, metavar="CELL")
    p.add_argument("--collect", action="store_true", help="run nothing; gather what is there")
    p.add_argument("--cell", choices=ORDER, help=argparse.SUPPRESS)
    add_json(p)
    return p


@command
def main(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    if options.cell:
        return _measure(options)
    if not options.collect:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: torch sees no GPU; --device cpu is a dry run")
        _run_all(options)
    rows = collect(read_cells(options.cells), options.only)
    write_rows(options.json, rows)
    for row in rows:
        print(_line(row))
    return 0


def _measure(options: argparse.Namespace) -> int:
    """The process of one cell, whose entry is the file alone."""
    is_training = options.cell.startswith("train ")
    repeats = (STEPS if is_training else REPEATS)[options.device]
    rows, reason = [], None
    try:
        rows = measure_cell(options.cell, options.device, options.size, repeats)
    except (ImportError, UserError, torch.OutOfMemoryError) as error:
        reason = str(error).splitlines()[0]
    entry = {
        "rows": rows,
        "reason": reason,
        "machine": where(options.device),
        "size": options.size,
    }
    write_text(options.cells, json.dumps(entry, allow_nan=False))
    return 0


def read_cells(file: Path) -> dict[str, dict]:
    """The entries that there are."""
    if not file.is_file():
        return {}
    found: dict[str, dict] = read_json(file, "cells of bench_gpu.py", dict, "delete it")
    return found


def _run_all(options: argparse.Namespace) -> None:
    """Every cell that has no entry, as long as the time lasts."""
    end = time.monotonic() + options.seconds
    for cell in options.only:
        cells = read_cells(options.cells)
        left = end - time.monotonic()
        if cell in cells or left < LEAST_SECONDS:
            continue
        limit = min(left, LONGEST_CELL) if options.device == "cuda" else left
        began = time.monotonic()
        cells[cell] = _entry(cell, options, limit)
        write_text(options.cells, json.dumps(cells, indent=1, allow_nan=False))
        print(f"{cell}: {time.monotonic() - began:.0f} s", flush=True)


def _entry(cell: str, options: argparse.Namespace, limit: float) -> dict:
    """The entry of a cell, which runs in a process and a folder of its own."""
    words = ["--cell", cell, "--device", options.device, "--size", options.size]
    command = [sys.executable, str(Path(__file__).resolve()), "--cells", "cell.json", *words]
    reason = f"not done within {limit:.0f} s"
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(command, cwd=folder, timeout=limit, stderr=subprocess.PIPE)
            said = done.stderr.decode(errors="replace").strip().splitlines() or [""]
            reason = f"ended with code {done.returncode}: {said[-1]}"
        entry = read_cells(Path(folder) / "cell.json")
    machine = where(options.device)
    return entry or {"rows": [], "reason": reason, "machine": machine, "size": options.size}


def collect(cells: dict[str, dict], names: Sequence[str] = ORDER) -> list[dict]:
    """The rows of all cells; a cell without has one that says why."""
    rows = []
    for cell in names:
        made = cells.get(cell, {"rows": [], "reason": "no entry", "machine": None, "size": None})
        own = {"machine": made["machine"], "size": made["size"]}
        rows += [{**row, "state": "run", **own} for row in made["rows"]]
        if made["reason"] is not None:
            what = cell if cell.startswith("train ") else "both models"
            state = "not run" if cell not in cells else f"not run: {made['reason']}"
            rows += [{"what": what, "way": way, "state": state, **own} for way in CELLS[cell]]
    return rows


def _line(row: dict) -> str:
    figures = [f"{key} {row[key]:.4g}" for key in row if isinstance(row[key], float)]
    return "  ".join([f"{row['what']:24}{row['way']:20}{row['state']:8}", *figures])


if __name__ == "__main__":
    main()
