"""Weights in 8 bits and activations in float32: dtype `w8` of an ONNX graph.

A weight is stored as int8 codes behind a DequantizeLinear with one scale for each output channel.
A runtime that folds constants has float weights after loading. The file is a quarter.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.graphs.storage import load_graph
from export.parity.measure import unrounded
from export.targets.contract import Parts
from export.targets.onnx_files import replace_file
from export.targets.searches import searching_nodes

LARGEST_CODE = 127
LEAST = 4096  # values of a weight; what fewer would save is less than what they lose
Readers = list[tuple[onnx.NodeProto, int]]  # nodes that read a weight, with the place
SCHEME = {
    "scheme": "DequantizeLinear behind stored weights",
    "placement": "weights only",
    "weights": "int8, symmetric, per output channel",
    "activations": "float32",
}


@contextmanager
def float_activations(parts: Parts) -> Iterator[None]:
    """Within, a model with codes of its own keeps those of its weights and rounds nothing else.

    That holds for what is exported and for what parity is measured against.
    """
    if not (parts.quantised and parts.dtype == "w8"):
        yield
        return
    with unrounded(parts.model):
        yield


def as_weight_only(path: Path) -> None:
    """Rewrite a float file with its larger weights as codes.

    Weights that lead to the choice of an index stay in float32.
    """
    model = load_graph(path)
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
    code_weights(model)
    replace_file(model, path)


def code_weights(model: onnx.ModelProto) -> None:
    """Put codes and a DequantizeLinear in the place of the weights of products, in place.

    A weight that its readers have on different axes stays as it is.
    """
    graph = model.graph
    searching = set(searching_nodes(model))
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for name, readers in _weights(graph, stored).items():
        axes = {_output_axis(node, place, len(stored[name].dims)) for node, place in readers}
        searches = any(node.name in searching for node, _ in readers)
        axis = axes.pop() if len(axes) == 1 else None
        if axis is None or searches:
            continue
        codes, scales = symmetric_codes(numpy_helper.to_array(stored[name]), axis)
        graph.initializer.remove(stored[name])
        graph.initializer.append(numpy_helper.from_array(codes, f"{name}_codes"))
        graph.initializer.append(numpy_helper.from_array(scales, f"{name}_scale"))
        inputs = [f"{name}_codes", f"{name}_scale"]
        nodes.append(
            helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}_dq", axis=axis)
        )
    for node in reversed(nodes):
        graph.node.insert(0, node)


def _weights(graph: onnx.GraphProto, stored: dict[str, onnx.TensorProto]) -> dict[str, Readers]:
    """The stored float32 tensors of LEAST values and more, with all that reads them."""
    large = {
        name
        for name, tensor in stored.items()
        if tensor.data_type == TensorProto.FLOAT and int(np.prod(tensor.dims)) >= LEAST
    }
    found: dict[str, Readers] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in large:
                found.setdefault(name, []).append((node, place))
    return found


def _output_axis(node: onnx.NodeProto, place: int, rank: int) -> int | None:
    """The axis of a weight's output channels; None where a node does not multiply by it."""
    if place != 1:
        return None
    if node.op_type == "MatMul":
        return rank - 1
    if node.op_type == "Gemm":
        turned = any(entry.name == "transB" and entry.i for entry in node.attribute)
        return 0 if turned else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type)


def symmetric_codes(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales whose product is nearest to a weight, the greatest magnitude kept.

    Args:
        weight: float32 of any shape.
        axis: That of the output channels.

    Returns:
        int8 of `weight`'s shape in [-127, 127], and float32 [channels] above 0.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True).astype(np.float64)
    scale = np.where(largest > 0, largest / LARGEST_CODE, 1.0).astype(np.float32)
    codes = np.rint(weight / scale).clip(-LARGEST_CODE, LARGEST_CODE).astype(np.int8)
    return codes, scale.reshape(-1)
