"""The layers at the boundary of a component, found in its flow and not by name.

PassionSR names six of Stable Diffusion's layers that stay at 8 bits. These rules find the same six,
and their like in other families.
"""

from typing import NamedTuple

from compress.quant.flow import Flow, Node
from compress.quant.graph_rules import (
    depends_on_input,
    feeds_output_only,
    is_rescaled_input,
    readers,
)


class BoundaryLayers(NamedTuple):
    """Names of layers of a component, in the order of the run.

    Attributes:
        sensitive: Those that stay at 8 bits: what makes an output or feeds another boundary layer
            directly, and the first layer of a time embedding.
        boundary: Those that read the component's input or make its output, through other boundary
            layers at most; and the sensitive ones.
    """

    sensitive: list[str]
    boundary: list[str]


def find_boundary_layers(flow: Flow) -> BoundaryLayers:
    """Find the layers at a component's ends."""
    layers = flow.layers()
    nodes = list(layers.values())
    last = _output_side(nodes)
    first = _input_side(nodes)
    feeding = {node for node in first if _feeds_only(node, first)}
    sensitive = last | feeding | {node for node in nodes if _starts_time_embedding(node)}
    return BoundaryLayers(
        [name for name, node in layers.items() if node in sensitive],
        [name for name, node in layers.items() if node in sensitive | first],
    )


def _output_side(nodes: list[Node]) -> set[Node]:
    """Layers whose result leaves the component, or is read by such layers alone."""
    found: set[Node] = set()
    for node in reversed(nodes):
        if feeds_output_only(node) or _feeds_only(node, found):
            found.add(node)
    return found


def _input_side(nodes: list[Node]) -> set[Node]:
    """Layers that read the component's input, or the result of such a layer."""
    found: set[Node] = set()
    for node in nodes:
        source = node.source
        if source in found or (is_rescaled_input(source) and depends_on_input(source)):
            found.add(node)
    return found


def _feeds_only(node: Node, others: set[Node]) -> bool:
    """Whether a layer's result is read, and by `others` alone."""
    found = readers(node)
    return bool(found) and all(n in others for n in found)


def _starts_time_embedding(node: Node) -> bool:
    """Whether a layer reads a vector that no input went into."""
    if not node.shapes or len(node.shapes[0]) != 2:
        return False
    return is_rescaled_input(node.source) and not depends_on_input(node.source)
