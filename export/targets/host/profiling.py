"""What loading and running the graphs costs on this machine."""

import sys
import time
from pathlib import Path

import numpy as np

from .folder import FolderError, read
from .runtimes import load

KIBIBYTE, MEBIBYTE = 2**10, 2**20


def peak_mib() -> float:
    """The most memory that this process held so far, in MiB.

    Raises:
        FolderError: The system does not say.
    """
    try:
        import resource
    except ImportError:  # Windows: run.py itself works without
        raise FolderError(
            "--profile measures memory by a POSIX call, which this system lacks; run it on Linux "
            "or macOS"
        ) from None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, Linux KiB.
    if sys.platform == "darwin":
        return peak / MEBIBYTE
    return peak / KIBIBYTE


def example_shape(tensor: dict) -> list[int]:
    """The shape of a graph's input, with the example's sides where any are allowed."""
    sides = zip(tensor["shape"], tensor["example_shape"], strict=True)
    return [side if isinstance(side, int) else example for side, example in sides]


def example(random: np.random.Generator, tensor: dict) -> np.ndarray:
    """A value for a graph's input: random floats in [0, 1), or zeros for integers."""
    shape = example_shape(tensor)
    if tensor.get("dtype", "float32") == "float32":
        return random.random(shape, dtype=np.float32)
    return np.zeros(shape, tensor["dtype"])


def profile(folder: Path, repeats: int, threads: int | None) -> dict[str, dict]:
    """Load every graph of a folder in turn and run it on random values.

    Args:
        folder: The exported folder.
        repeats: Runs of each graph after the first.
        threads: CPU threads; None for the runtime's choice.

    Returns:
        Of each graph: `load_s` in seconds; `first_ms` and the list `ms` of its runs; `peak_mib`,
        the process' peak memory, and `more_mib`, how much the graph added to it.

    Raises:
        FolderError: The system does not say how much memory a process has.
    """
    random = np.random.default_rng(0)
    profiles = {}
    for name, graph in read(folder)["graphs"].items():
        before = peak_mib()
        began = time.perf_counter()
        run = load(folder, [name], threads)[name]
        loaded = time.perf_counter() - began
        arrays = [example(random, tensor) for tensor in graph["inputs"]]
        times = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            run(*arrays)
            times.append((time.perf_counter() - began) * 1e3)
        peak = peak_mib()
        profiles[name] = {
            "load_s": loaded,
            "first_ms": times[0],
            "ms": times[1:],
            "peak_mib": peak,
            "more_mib": peak - before,
        }
    return profiles
