"""Graphs that are numbers: at a fixed size they put out the same for every input.

Fixed noise is one: it reads the size of the latent and no value. The HTP takes no graph without
inputs, and an application needs none: the outputs lie in a file.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from export.targets.host.runtimes import STORED


def constant_outputs(path: Path) -> list[np.ndarray] | None:
    """The outputs, float32, of an ONNX file that reads none of its inputs; None where it reads one.

    Args:
        path: A file of fixed shapes.
    """
    graph = onnx.load(path, load_external_data=False).graph
    given = {value.name for value in graph.input}
    read = {name for node in graph.node for name in node.input}
    if given & (read | {value.name for value in graph.output}):
        return None
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    zeros = {
        entry.name: np.zeros(entry.shape, np.float32 if "float" in entry.type else np.int64)
        for entry in session.get_inputs()
    }
    return [np.asarray(output, np.float32) for output in session.run(None, zeros)]


def store(path: Path, outputs: list[np.ndarray]) -> dict[str, Any]:
    """Write outputs beside an ONNX file and in its place, and return the manifest's entry.

    The file holds them one after the other, as little-endian float32.
    """
    file = path.with_suffix(".bin")
    file.write_bytes(b"".join(output.astype("<f4").tobytes() for output in outputs))
    for old in (path, path.with_name(f"{path.name}.data")):
        old.unlink(missing_ok=True)
    shapes = [list(output.shape) for output in outputs]
    return {"file": file.name, "format": STORED, "shapes": shapes, "precision": "fp32"}
