"""What depends on no input of the graph, computed."""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import TypeProto, helper
from onnx.reference import ReferenceEvaluator

from export.graphs.edit import array, clean, constant, maker_of, operands
from export.rewrites.options import DEFAULTS, Options

RESHAPES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity")
QUANTISERS = ("DequantizeLinear", "QuantizeLinear")
LARGEST = 2**22  # elements; a larger result costs more than it saves


class _Folder:
    """Computes values from constants alone, each once."""

    def __init__(self, opset: int):
        self.opset = opset
        self.known: dict[ir.Value, np.ndarray | None] = {}

    def compute(self, value: ir.Value | None) -> np.ndarray | None:
        """The numbers of a value, or None where they depend on an input."""
        if value is None or array(value) is not None:
            return array(value)
        node = value.producer()
        if node is None or node.domain:
            return None
        if value not in self.known:
            self._run(node)
        return self.known[value]

    def _run(self, node: ir.Node) -> None:
        inputs = [self.compute(value) for value in node.inputs]
        results: list[np.ndarray | None] = [None] * len(node.outputs)
        if len(operands(node)) == sum(values is not None for values in inputs):
            results = [*_evaluate(node, inputs, self.opset)]
        self.known.update(zip(node.outputs, results, strict=True))


def fold_constants(model: ir.Model, options: Options = DEFAULTS) -> int:
    """Compute what depends on no input, such as the embedding of a fixed time step.

    Weights that are stored as integers stay so. Neither their DequantizeLinear nor its reshapes
    are folded.

    Args:
        model: Changed in place.
        options: Not used.

    Returns:
        How many values became constants.
    """
    folder = _Folder(model.graph.opset_imports[""])
    folded = 0
    for node in list(model.graph):
        if not _may_fold(node):
            continue
        values = [folder.compute(value) for value in node.outputs]
        if any(result is None or result.size > LARGEST for result in values):
            continue
        for old, new in zip(node.outputs, values, strict=True):
            if new is not None and not old.is_graph_output():
                stored = constant(model.graph, new, "folded")
                ir.convenience.replace_all_uses_with(old, stored)
                folded += 1
    clean(model)
    return folded


def _may_fold(node: ir.Node) -> bool:
    """Whether a node is an operator of the standard, on no input of the graph and no codes."""
    if node.domain or node.op_type in QUANTISERS or not node.inputs or _moves_codes(node):
        return False
    return all(value.producer() is not None or array(value) is not None for value in operands(node))


def _moves_codes(node: ir.Node) -> bool:
    """Whether a node only moves a weight that is stored as integers."""
    source: ir.Node | None = node
    while source is not None and source.op_type in RESHAPES:
        source = maker_of(source.inputs[0])
        if source is not None and source.op_type in QUANTISERS:
            return True
    return False


def _evaluate(node: ir.Node, inputs: list[np.ndarray | None], opset: int) -> list[np.ndarray]:
    """What an operator gives, in ONNX's reference implementation; None is a missing input."""
    feed = {f"i{k}": values for k, values in enumerate(inputs) if values is not None}
    outputs = [f"o{k}" for k in range(len(node.outputs))]
    proto = ir.serde.serialize_node(node)
    del proto.input[:], proto.output[:]
    proto.input.extend(f"i{k}" if f"i{k}" in feed else "" for k in range(len(inputs)))
    proto.output.extend(outputs)
    graph = helper.make_graph(
        [proto],
        "fold",
        [helper.make_value_info(name, TypeProto()) for name in feed],
        [helper.make_value_info(name, TypeProto()) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    results: Any = ReferenceEvaluator(model).run(None, feed)
    return list(results)
