"""ONNX files timed side by side."""

from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort

from compress.core.errors import UserError
from export.graphs.storage import files_of
from export.parity.session import session
from export.timing.rows import Measured, Row, make_rows
from export.timing.turns import check_counts, interleaved


def feed(loaded: ort.InferenceSession, side: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs in [0, 1].

    Args:
        loaded: A session.
        side: Stands in for each dynamic dimension.
        seed: Of the values.

    Returns:
        Name of an input -> float32.
    """
    random = np.random.default_rng(seed)
    arrays = {}
    for value in loaded.get_inputs():
        shape = [size if isinstance(size, int) else side for size in value.shape]
        arrays[value.name] = random.random(shape, dtype=np.float32)
    return arrays


def compare(
    files: dict[str, Path], *, threads: int = 1, repeats: int = 20, side: int = 128
) -> list[Row]:
    """Time ONNX files in one process, with repeats interleaved.

    Args:
        files: Label -> file; the first is the reference.
        threads: CPU threads.
        repeats: Runs of each that count.
        side: Stands in for each dynamic dimension.

    Raises:
        UserError: A number is 0, or the files take inputs of different shapes.
    """
    check_counts("files", len(files), threads, repeats)
    sessions = {label: session(path, threads) for label, path in files.items()}
    feeds = {label: feed(loaded, side) for label, loaded in sessions.items()}
    shapes = {label: [x.shape for x in inputs.values()] for label, inputs in feeds.items()}
    if len({str(shape) for shape in shapes.values()}) > 1:
        raise UserError(
            f"the files take inputs of different shapes ({shapes}); export them at one lr size"
        )
    runs = {label: partial(loaded.run, None, feeds[label]) for label, loaded in sessions.items()}
    times = interleaved(runs, repeats, threads)
    measured = {
        label: Measured(times[label], stored_bytes(Path(path))) for label, path in files.items()
    }
    return make_rows(measured, threads, repeats)


def stored_bytes(path: Path) -> int:
    """Size of a graph with the files of its weights."""
    return sum(file.stat().st_size for file in files_of(path))
