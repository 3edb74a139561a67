"""Operators that only change how a tensor is seen: nothing is computed for them."""

import onnx_ir as ir

from export.graphs.edit import attribute, operand, shape
from export.rewrites.four_d.writer import Writer
from export.rewrites.views import NotExpressible, View

RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")


def rewrite_reshape(writer: Writer, node: ir.Node) -> list[View]:
    """The same elements in another shape.

    Raises:
        NotExpressible: An axis would be cut unevenly.
    """
    return [writer.input_view(node).reshaped(shape(node.outputs[0]))]


def rewrite_transpose(writer: Writer, node: ir.Node) -> list[View]:
    """Another order of axes."""
    view = writer.input_view(node)
    reverse = range(len(view.dims))[::-1]
    return [view.permuted(list(attribute(node, "perm", reverse)))]


def rewrite_expand(writer: Writer, node: ir.Node) -> list[View]:
    """An Expand to the shape that the tensor has.

    Raises:
        NotExpressible: It repeats elements.
    """
    if shape(operand(node, 0)) != shape(node.outputs[0]):
        raise NotExpressible("Expand repeats elements")
    return rewrite_reshape(writer, node)
