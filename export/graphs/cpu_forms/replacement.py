"""New nodes in the place of one, and the codes that they read."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from export.graphs.edit import initializer, maker_of


class Replacement:
    """Collects nodes that will stand in the place of one of a graph.

    Args:
        graph: The graph.
        prefix: Of the names of its constants.
    """

    def __init__(self, graph: ir.Graph, prefix: str):
        self.graph = graph
        self.prefix = prefix
        self.nodes: list[ir.Node] = []

    def constant(self, name: str, values: np.ndarray) -> ir.Value:
        """A new initializer of the graph."""
        name = f"{self.prefix}_{name}"
        return initializer(self.graph, name, ir.tensor(values, name=name))

    def several(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any],
        outputs: int,
    ) -> Sequence[ir.Value]:
        """A further node with any number of outputs; returns them."""
        node = ir.node(op, inputs, attributes, num_outputs=outputs)
        self.nodes.append(node)
        return node.outputs

    def add(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        """A further node with one output; returns it."""
        return self.several(op, inputs, attributes or {}, 1)[0]

    def put(self, old: ir.Node, result: ir.Value, *more: ir.Node) -> None:
        """Let the new nodes stand for `old`, whose output is `result` now.

        `more` are nodes that nothing reads any longer, from the last to the first.
        """
        ir.convenience.replace_nodes_and_values(
            self.graph, old, [old], self.nodes, old.outputs, [result]
        )
        self.graph.remove(more, safe=True)


def dequantise_of(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that makes a value, where it has one scale for all channels."""
    node = maker_of(value, "DequantizeLinear")
    scale = None if node is None else node.inputs[1]
    if scale is None or scale.shape is None or len(scale.shape) > 0:
        return None
    return node


def readers_of(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value, once for each input that does."""
    return [use.node for use in value.uses()]
