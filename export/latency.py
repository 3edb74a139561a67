"""Latency side by side: one process, the same threads, repeats interleaved; of ONNX files, or of anything that runs.

Interleaving lets a load that comes and goes hit all files alike. What holds on another day is the ratio.
"""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort

from compress.errors import UserError
from compress.machine import processor
from export.verify import session


def machine() -> str:
    """The processor's name, with the number of cores that this process sees."""
    return f"{processor()}, {os.cpu_count()} cores"


def feed(loaded: ort.InferenceSession, side: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A random input in [0, 1]; `side` stands in for each dynamic dimension."""
    random = np.random.default_rng(seed)
    return {i.name: random.random([d if isinstance(d, int) else side for d in i.shape], dtype=np.float32)
            for i in loaded.get_inputs()}


def interleaved(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of `repeats` calls of every run (label -> run), in turns, after one call of each to warm up."""
    times: dict[str, list[float]] = {label: [] for label in runs}
    for repeat in range(repeats + 1):
        for label, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat:
                times[label].append((time.perf_counter() - start) * 1e3)
    return times


def compare(files: dict[str, Path], *, threads: int = 1, repeats: int = 20, side: int = 128) -> list[dict]:
    """Measure `files` (label -> path), the first of them the reference, after one warm-up run of each.

    Each row: label, median_ms, min_ms, ratio (median of the reference / median of this: above 1 is faster), bytes,
    size_ratio (this / reference), threads, repeats, machine.
    """
    if not files or repeats < 1 or threads < 1:
        raise UserError(f"cannot measure {len(files)} files with {threads} threads and {repeats} repeats; "
                        "each must be at least 1")
    sessions = {label: session(path, threads) for label, path in files.items()}
    feeds = {label: feed(loaded, side) for label, loaded in sessions.items()}
    shapes = {label: [x.shape for x in inputs.values()] for label, inputs in feeds.items()}
    if len(set(map(str, shapes.values()))) > 1:
        raise UserError(f"the files take inputs of different shapes ({shapes}); export them at one lr size")
    times = interleaved({label: partial(loaded.run, None, feeds[label]) for label, loaded in sessions.items()}, repeats)
    medians = {label: statistics.median(values) for label, values in times.items()}
    sizes = {label: _bytes(Path(path)) for label, path in files.items()}
    reference = next(iter(files))
    return [{"label": label, "median_ms": medians[label], "min_ms": min(times[label]),
             "ratio": medians[reference] / medians[label], "bytes": sizes[label],
             "size_ratio": sizes[label] / sizes[reference], "threads": threads, "repeats": repeats,
             "machine": machine()} for label in files]


def _bytes(path: Path) -> int:
    """Size of the graph with the data file beside it, if there is one."""
    data = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (data.stat().st_size if data.is_file() else 0)


def table(rows: list[dict]) -> str:
    lines = [f"measured on {rows[0]['machine']}; {rows[0]['threads']} threads, {rows[0]['repeats']} interleaved repeats",
             f"{'':24}{'median ms':>11}{'min ms':>9}{'speed':>8}{'KiB':>9}{'size':>7}"]
    lines += [f"{r['label']:24}{r['median_ms']:11.1f}{r['min_ms']:9.1f}{r['ratio']:7.2f}x{r['bytes'] / 1024:9.0f}"
              f"{r['size_ratio']:7.3f}" for r in rows]
    return "\n".join(lines)
