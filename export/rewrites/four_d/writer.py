"""The new graph while it is written, and which of its tensors stand for which of the old."""

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from export.graphs.edit import (
    Before,
    Operand,
    array,
    attributes_of,
    initializer,
    names,
    operand,
    shape,
)
from export.rewrites.arrange import arrange
from export.rewrites.views import View, plain


class Writer:
    """A graph that is written anew, node after node.

    Attributes:
        graph: The new graph.
        at: Puts nodes at its end.
        views: Value of the old graph -> the view that stands for it.
    """

    def __init__(self, model: ir.Model):
        old = model.graph
        inputs = [ir.Value(name=v.name, shape=v.shape, type=v.type) for v in old.inputs]
        self.graph = ir.Graph(inputs, [], nodes=[], opset_imports=old.opset_imports, name=old.name)
        self.graph.meta["names"] = set(names(old))
        self.at = Before(self.graph, None)
        self.views = {
            value: plain(new, shape(value)) for value, new in zip(old.inputs, inputs, strict=True)
        }
        self._stored: dict[ir.Value, ir.Value] = {}

    def view(self, value: ir.Value) -> View:
        """What stands for a value of the old graph."""
        if value not in self.views:
            self.views[value] = plain(self.store(value), shape(value))
        return self.views[value]

    def input_view(self, node: ir.Node, index: int = 0) -> View:
        """What stands for an input of a node of the old graph."""
        return self.view(operand(node, index))

    def store(self, value: ir.Value) -> ir.Value:
        """The initializer of the new graph for one of the old.

        Raises:
            ValueError: The old graph has no tensor for it.
        """
        if value not in self._stored:
            tensor = value.const_value
            if tensor is None or value.name is None:
                raise ValueError(f"{value} is no initializer")
            self._stored[value] = initializer(self.graph, value.name, tensor)
        return self._stored[value]

    def whole(self, value: ir.Value | None) -> ir.Value | None:
        """The tensor of `value` in the shape that the original graph believes in; None for None."""
        if value is None:
            return None
        return self.output(value)

    def output(self, value: ir.Value) -> ir.Value:
        """As `whole`, of a value that there is."""
        if array(value) is not None:
            return self.store(value)
        view = arrange(self.view(value), self.view(value).dims, self.at)
        self.views[value] = view
        return view.base

    def repeat(self, node: ir.Node, *inputs: Operand, **changed: Any) -> ir.Value:
        """The operator of `node` on other inputs, with its attributes but for `changed`."""
        return self.at(node.op_type, *inputs, **attributes_of(node, **changed))

    def copy(self, node: ir.Node) -> Sequence[View]:
        """`node` as it is, on tensors in the shapes of the original graph."""
        outputs = self.at.several(
            node.op_type,
            *[self.whole(value) for value in node.inputs],
            outputs=len(node.outputs),
            domain=node.domain,
            **attributes_of(node),
        )
        return [plain(new, shape(old)) for new, old in zip(outputs, node.outputs, strict=True)]
