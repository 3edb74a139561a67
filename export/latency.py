"""Latency side by side: one process, the same threads, repeats interleaved; of ONNX files, or of anything that runs.

    python -m export.latency FOLDER_FP32 FOLDER_W8A8 … [--threads 1 2] [--repeats 10]    (folders of export.run)

Interleaving lets a load that comes and goes hit all files alike. What holds on another day is the ratio. A turn is
some calls of one file, of which the first does not count: idle threads of the file before still spin for a while, on
the cores that this one's need.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort

from compress.core.errors import UserError, command
from compress.core.machine import processor
from compress.recipe import run_files
from export.graphs.storage import files_of
from export.parity.verify import session

TURN = 3


def machine() -> str:
    """The processor's name, with the number of cores that this process sees."""
    cores = os.cpu_count()
    return f"{processor()}, {cores} {'core' if cores == 1 else 'cores'}"


def feed(loaded: ort.InferenceSession, side: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A random input in [0, 1]; `side` stands in for each dynamic dimension."""
    random = np.random.default_rng(seed)
    return {
        i.name: random.random(
            [d if isinstance(d, int) else side for d in i.shape], dtype=np.float32
        )
        for i in loaded.get_inputs()
    }


def interleaved(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of `repeats` calls of every run (label -> run), in turns of TURN after one that does not count."""
    times: dict[str, list[float]] = {label: [] for label in runs}
    for first in range(0, repeats, TURN):
        for label, run in runs.items():
            run()
            for _ in range(min(TURN, repeats - first)):
                start = time.perf_counter()
                run()
                times[label].append((time.perf_counter() - start) * 1e3)
    return times


def compare(
    files: dict[str, Path], *, threads: int = 1, repeats: int = 20, side: int = 128
) -> list[dict]:
    """Measure `files` (label -> path), the first of them the reference.

    Each row: label, median_ms, min_ms, ratio (median of the reference / median of this: above 1 is faster), bytes,
    size_ratio (this / reference), threads, repeats, machine.
    """
    if not files or repeats < 1 or threads < 1:
        raise UserError(
            f"cannot measure {len(files)} files with {threads} threads and {repeats} repeats; "
            "each must be at least 1"
        )
    sessions = {label: session(path, threads) for label, path in files.items()}
    feeds = {label: feed(loaded, side) for label, loaded in sessions.items()}
    shapes = {label: [x.shape for x in inputs.values()] for label, inputs in feeds.items()}
    if len(set(map(str, shapes.values()))) > 1:
        raise UserError(
            f"the files take inputs of different shapes ({shapes}); export them at one lr size"
        )
    times = interleaved(
        {label: partial(loaded.run, None, feeds[label]) for label, loaded in sessions.items()},
        repeats,
    )
    medians = {label: statistics.median(values) for label, values in times.items()}
    sizes = {label: _bytes(Path(path)) for label, path in files.items()}
    reference = next(iter(files))
    return [
        {
            "label": label,
            "median_ms": medians[label],
            "min_ms": min(times[label]),
            "ratio": medians[reference] / medians[label],
            "bytes": sizes[label],
            "size_ratio": sizes[label] / sizes[reference],
            "threads": threads,
            "repeats": repeats,
            "machine": machine(),
        }
        for label in files
    ]


def _bytes(path: Path) -> int:
    """Size of the graph with the files of its weights."""
    return sum(file.stat().st_size for file in files_of(path))


def table(rows: list[dict]) -> str:
    threads, repeats = (
        f"{rows[0][key]} {key if rows[0][key] != 1 else key[:-1]}" for key in ("threads", "repeats")
    )
    lines = [
        f"measured on {rows[0]['machine']}; {threads}, {repeats}, interleaved",
        f"{'':24}{'median ms':>11}{'min ms':>9}{'speed':>8}{'KiB':>9}{'size':>7}",
    ]
    lines += [
        f"{r['label']:24}{r['median_ms']:11.1f}{r['min_ms']:9.1f}{r['ratio']:7.2f}x{r['bytes'] / 1024:9.0f}"
        f"{r['size_ratio']:7.3f}"
        for r in rows
    ]
    return "\n".join(lines)


def read_manifest(folder: Path) -> dict:
    file = Path(folder) / "manifest.json"
    if not file.is_file():
        raise UserError(
            f"{folder}: no manifest.json here; give folders that python -m export.run wrote"
        )
    return run_files.read_manifest(Path(folder))


def whole(folder: Path, threads: int) -> Callable[[], object]:
    """One run of an exported model on a random image of its size: all parts and the arithmetic between them, no
    tiles."""
    from export.targets.host.runtimes import load
    from export.targets.host.tiles import chain, chosen

    manifest = read_manifest(folder)
    graphs = load(Path(folder), chosen(manifest, None), threads)
    lr = np.random.default_rng(0).random((1, 3, *manifest["lr_size"]), dtype=np.float32)
    return lambda: chain(manifest, graphs, lr)


def profile(folder: Path, threads: int, python: str = sys.executable) -> dict:
    """Load time in s and peak memory in MiB of the graphs that `whole` runs, by the folder's run.py in a process of its
    own: numpy and the runtime, no torch."""
    done = subprocess.run(
        [
            python,
            str(Path(folder).resolve() / "run.py"),
            "--profile",
            "1",
            "--threads",
            str(threads),
        ],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UserError(
            f"{folder}: run.py --profile failed ({(done.stderr.strip().splitlines() or ['no message'])[-1]})"
        )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {
        "load_s": sum(graph["load_s"] for graph in found.values()),
        "peak_mib": max(graph["peak_mib"] for graph in found.values()),
    }


def compare_folders(folders: list[Path], *, threads: int = 1, repeats: int = 10) -> list[dict]:
    """As `compare`, for folders of export.run, of any targets that run here; the first is the reference.

    Each row has `load_s` and `peak_mib` besides.
    """
    if not folders or repeats < 1 or threads < 1:
        raise UserError(
            f"cannot measure {len(folders)} folders with {threads} threads and {repeats} repeats; each must be "
            "at least 1"
        )
    manifests = {folder: read_manifest(folder) for folder in folders}
    sizes = {tuple(m["lr_size"]) for m in manifests.values()}
    if len(sizes) > 1:
        raise UserError(
            f"the folders take images of different sizes ({', '.join(map(str, sorted(sizes)))}); export them at "
            "one lr size"
        )
    labels = {folder: f"{m['target']} {m['dtype']}" for folder, m in manifests.items()}
    if len(set(labels.values())) < len(labels):
        labels = {folder: str(folder) for folder in folders}
    profiles = {folder: profile(folder, threads) for folder in folders}
    times = interleaved({labels[folder]: whole(folder, threads) for folder in folders}, repeats)
    medians = {label: statistics.median(values) for label, values in times.items()}
    stored = {
        folder: sum(
            f["bytes"]
            for name, f in m["files"].items()
            if not name.endswith(".py") and not name.startswith("model.")
        )
        for folder, m in manifests.items()
    }
    first = folders[0]
    return [
        {
            "label": labels[f],
            "median_ms": medians[labels[f]],
            "min_ms": min(times[labels[f]]),
            "ratio": medians[labels[first]] / medians[labels[f]],
            "bytes": stored[f],
            "size_ratio": stored[f] / stored[first],
            "threads": threads,
            "repeats": repeats,
            "machine": machine(),
            **profiles[f],
        }
        for f in folders
    ]


@command
def main(argv: list[str]) -> int:
    p = argparse.ArgumentParser(
        prog="python -m export.latency", description="Measure exported folders side by side"
    )
    p.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="of python -m export.run; the first is the reference",
    )
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    p.add_argument("--repeats", type=int, default=10)
    arguments = p.parse_args(argv)
    for threads in arguments.threads:
        rows = compare_folders(arguments.folders, threads=threads, repeats=arguments.repeats)
        print(table(rows))
        for row in rows:
            print(
                f"{row['label']:24}loads in {row['load_s']:.2f} s, peak {row['peak_mib']:.0f} MiB"
            )
    return 0


if __name__ == "__main__":
    main()
