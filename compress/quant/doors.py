"""The layers at the ends of a component, found by what they read and where their result goes, not by name.

PassionSR names six of Stable Diffusion's that stay at 8 bits; these rules find the same six, and their like elsewhere.
"""

from compress.quant.flow import INPUT, Flow, Node
from compress.quant.points import on_doorstep, outward


def _from_input(node: Node | None) -> bool:
    return node is not None and (node.op == INPUT or any(_from_input(n) for n in node.inputs))


def _readers(node: Node) -> list[Node]:
    return [n for n in node.consumers if not n.inside]


def doors(flow: Flow) -> tuple[list[str], list[str]]:
    """(pins, edges): names of layers of a component.

    Edges read its input or make its output, through other edges at most. Pins are those of them that make an output or
    feed another edge directly, and the first layer of a time embedding (it reads a vector that no input went into).
    """
    layers = list(flow.layers().values())
    outward_layers: set[Node] = set()
    for node in reversed(layers):
        readers = _readers(node)
        if outward(node) or readers and all(n in outward_layers for n in readers):
            outward_layers.add(node)
    inward: set[Node] = set()
    for node in layers:
        source = node.inputs[0] if node.inputs else None
        if source in inward or on_doorstep(source) and _from_input(source):
            inward.add(node)
    time = {
        node
        for node in layers
        if node.shapes
        and len(node.shapes[0]) == 2
        and on_doorstep(node.inputs[0])
        and not _from_input(node.inputs[0])
    }
    feeding = {
        node for node in inward if (readers := _readers(node)) and all(n in inward for n in readers)
    }
    pins = outward_layers | feeding | time
    return ([n.layer for n in layers if n in pins], [n.layer for n in layers if n in pins | inward])
