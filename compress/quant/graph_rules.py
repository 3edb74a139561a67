"""Rules about a tensor in a recorded flow: where it comes from, where it goes, who wants its codes.

The rules read operators and layers, never names of a family's modules.
"""

from compress.quant.calls import SCALAR
from compress.quant.flow import INPUT, Node
from compress.quant.placement import Placement

# What may lie between a component's input and a tensor that still counts as that input.
RESCALING = (*SCALAR, "concat", "resize", "interpolate")
# What onnxruntime's CPU computes on 8-bit codes faster than on floats, besides convolutions.
ON_CODES = ("add", "resize")


def readers(node: Node) -> list[Node]:
    """Who reads a node's result; what a layer does inside itself is left out."""
    return [n for n in node.consumers if not n.inside]


def feeds_output_only(node: Node) -> bool:
    """Whether a tensor goes to the component's output and nowhere else.

    It may go there through products with numbers, or beside others in a concatenation.
    """
    if node.is_output:
        return True
    found = readers(node)
    return bool(found) and all(_passes_to_output(n) for n in found)


def _passes_to_output(reader: Node) -> bool:
    return (reader.scalar or reader.op == "concat") and feeds_output_only(reader)


def is_rescaled_input(node: Node | None) -> bool:
    """Whether a tensor is the component's input, a constant, or made of those by `RESCALING`."""
    if node is None or node.op == INPUT:
        return True
    return node.op in RESCALING and all(is_rescaled_input(n) for n in node.inputs)


def depends_on_input(node: Node | None) -> bool:
    """Whether the component's input goes into a tensor."""
    if node is None:
        return False
    return node.op == INPUT or any(depends_on_input(n) for n in node.inputs)


def wants_codes(reader: Node, placement: str) -> bool:
    """Whether a reader wants its operands on a grid.

    Layers and attention see to that themselves. A product with a number folds into the scale after
    it.

    Args:
        reader: Who reads the tensor.
        placement: `compat`, `cpu` or `full`.
    """
    if reader.op in ("layer", "attention") or reader.inside or reader.scalar:
        return False
    if placement == Placement.CPU:
        return reader.op in ON_CODES and len(reader.shapes[0]) == 4
    return placement == Placement.FULL or reader.op == "matmul"
