"""Which operators 8 bits would leave too coarse, so that they stay in float16 on the HTP.

The HTP's form puts every tensor on a grid, those between two layers included: sums, norms, what is
joined. Where a few values are a hundred times the others, the grid's step drowns the others. The
HTP takes operators in float16 into the same context, with conversions around them.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from export.graphs.storage import save_graph
from export.targets.ranges import Overrides
from export.targets.searches import PRODUCTS

LEAST_DB = 30.0  # of a tensor's variance over the noise of its grid
LEVELS = 2**8 - 1
# They give on what they get, on its grid.
SAME_VALUES = ("Reshape", "Transpose", "Slice", "Identity", "Squeeze", "Unsqueeze", "Flatten")


def coarse_nodes(
    model: onnx.ModelProto, inputs: Sequence[tuple[np.ndarray, ...]], learned: Overrides
) -> list[str]:
    """The names of operators with a tensor that 8 bits leave under `LEAST_DB`.

    Convolutions and products are none of them: they are worth their 8 bits.

    Args:
        model: Typed, with its weights, its pairs taken out.
        inputs: Of the graph, each a tuple of all inputs.
        learned: The tensors in it have a grid that was chosen for them.
    """
    noise = _signal_to_noise(model, inputs)
    coarse = {name for name, db in noise.items() if db < LEAST_DB and name not in learned}
    return [
        node.name
        for node in model.graph.node
        if node.op_type not in PRODUCTS and coarse.intersection([*node.input, *node.output])
    ]


def give_own_constants(model: onnx.ModelProto, in_float: Sequence[str]) -> None:
    """Give operators in float constants that no quantised operator reads, in place.

    Else the quantiser puts a shared one on a grid, and the HTP takes no grid of several channels in
    front of an operator in float.

    Args:
        model: With its weights.
        in_float: Names of nodes.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    chosen = set(in_float)
    quantised = {
        name for node in model.graph.node if node.name not in chosen for name in node.input
    }
    copied: dict[str, str] = {}
    for node in model.graph.node:
        if node.name not in chosen:
            continue
        for place, name in enumerate(node.input):
            if name not in stored or name not in quantised:
                continue
            if name not in copied:
                copied[name] = f"{name}_in_float"
                tensor = model.graph.initializer.add()
                tensor.CopyFrom(stored[name])
                tensor.name = copied[name]
            node.input[place] = copied[name]


def _signal_to_noise(
    model: onnx.ModelProto, inputs: Sequence[tuple[np.ndarray, ...]]
) -> dict[str, float]:
    """Tensor name -> its variance over the noise of a grid from its least to its largest, in dB."""
    watched, names = _with_moments(model)
    if not names:
        return {}
    least = dict.fromkeys(names, np.inf)
    largest = dict.fromkeys(names, -np.inf)
    variances: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "watched.onnx"
        save_graph(watched, path)
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        keys = [entry.name for entry in session.get_inputs()]
        wanted = [f"{name}{ending}" for name in names for ending in ENDINGS]
        for given in inputs:
            found = session.run(wanted, dict(zip(keys, given, strict=True)))
            for i, name in enumerate(names):
                low, high, mean, power = (float(x) for x in found[4 * i : 4 * i + 4])
                least[name] = min(least[name], low)
                largest[name] = max(largest[name], high)
                variances[name].append(power - mean**2)
    return {
        name: _in_db(float(np.mean(variances[name])), largest[name] - least[name])
        for name in names
        if largest[name] > least[name]
    }


def _in_db(variance: float, extent: float) -> float:
    noise = (extent / LEVELS) ** 2 / 12
    least = float(np.finfo(np.float32).tiny)
    return float(10 * np.log10(max(variance, least) / noise))


ENDINGS = ("_least", "_largest", "_mean", "_power")
REDUCTIONS = ("ReduceMin", "ReduceMax", "ReduceMean", "ReduceMean")


def _with_moments(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """A graph that puts out moments of its float tensors, and the names of those tensors."""
    floats = {
        value.name
        for value in model.graph.value_info
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    names = [
        name
        for node in model.graph.node
        if node.op_type not in SAME_VALUES
        for name in node.output
        if name in floats
    ]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    graph = watched.graph
    del graph.output[:]
    for name in names:
        squares = f"{name}_squares"
        graph.node.append(helper.make_node("Mul", [name, name], [squares]))
        for ending, reduction in zip(ENDINGS, REDUCTIONS, strict=True):
            source = squares if ending == "_power" else name
            result = f"{name}{ending}"
            graph.node.append(helper.make_node(reduction, [source], [result], keepdims=0))
            graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, []))
    return watched, names
