"""Operators that move codes of pixels, in forms with fast kernels."""

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from export.graphs.cpu_forms.replacement import Replacement, dequantise_of
from export.graphs.edit import initializer, maker_of, nodes_of, numbers, operand, static_shape

FACTOR = 2  # of the pixel shuffles that have a fast form


def nearest(model: ir.Model) -> int:
    """Nearest enlargement of codes [1, C, h, w] as one of [2, C / 2, h, w].

    Reshapes keep onnxruntime from moving a Resize of codes into the layout of its neighbours,
    channels last. It has no fast kernel for that: 20 times slower.
    """
    count = 0
    for node in nodes_of(model.graph, "Resize"):
        x = operand(node, 0)
        is_nearest = node.attributes.get_string("mode", "nearest") == "nearest"
        inside = static_shape(x)
        outside = static_shape(node.outputs[0])
        if not is_nearest or maker_of(x, "DequantizeLinear") is None:
            continue
        if inside is None or outside is None or not _can_be_halved(inside):
            continue
        new = Replacement(model.graph, f"nearest_{count}")
        halves = np.array([2, inside[1] // 2, *inside[2:]])
        split = new.constant("split", halves)
        back = new.constant("back", np.array(outside))
        y = new.add("Reshape", [x, split])
        y = new.add("Resize", [y, *node.inputs[1:]], node.attributes)
        new.put(node, new.add("Reshape", [y, back]))
        count += 1
    return count


def _can_be_halved(sides: tuple[int, ...]) -> bool:
    """Whether a map is [1, C, h, w] with an even number of channels."""
    return len(sides) == 4 and sides[0] == 1 and sides[1] % 2 == 0


class Shuffled(NamedTuple):
    """A DepthToSpace of a convolution's codes, with what makes them."""

    node: ir.Node
    dequantise: ir.Node
    quantise: ir.Node
    conv: ir.Node
    weight: ir.Node
    sides: tuple[int, ...]


def _shuffled(node: ir.Node) -> Shuffled | None:
    """A DepthToSpace by 2 as torch orders channels, of codes that nothing else reads."""
    order = node.attributes.get_string("mode", "DCR")
    if order != "CRD" or node.attributes.get_int("blocksize") != FACTOR:
        return None
    sides = static_shape(node.inputs[0])
    if sides is None or sides[0] != 1:
        return None
    dequantise = dequantise_of(node.inputs[0])
    if dequantise is None:
        return None
    quantise = maker_of(dequantise.inputs[0])
    if quantise is None:
        return None
    conv = maker_of(quantise.inputs[0], "Conv")
    if conv is None:
        return None
    weight = maker_of(conv.inputs[1], "DequantizeLinear")
    if weight is None:
        return None
    if any(len(made.outputs[0].uses()) > 1 for made in (conv, quantise, dequantise)):
        return None
    return Shuffled(node, dequantise, quantise, conv, weight, sides)


def shuffle(model: ir.Model) -> int:
    """DepthToSpace of a convolution's codes as a Transpose of whole pixels, channels last.

    That is where onnxruntime's kernels have them, and stands in the place of its slow generic
    shuffle. For that the convolution puts out the channels of a place one after the other, not the
    places of a channel.
    """
    count = 0
    for node in nodes_of(model.graph, "DepthToSpace"):
        found = _shuffled(node)
        if found is None:
            continue
        _reorder_channels(model.graph, found, f"shuffle_{count}")
        _transpose_pixels(Replacement(model.graph, f"shuffle_{count}"), found)
        count += 1
    return count


def _reorder_channels(graph: ir.Graph, found: Shuffled, prefix: str) -> None:
    """Let the convolution put out [place, channel] and not [channel, place]."""
    order = np.arange(found.sides[1]).reshape(-1, FACTOR**2).T.reshape(-1)
    for owner, index in ((found.weight, 0), (found.weight, 1), (found.weight, 2), (found.conv, 2)):
        if index >= len(owner.inputs) or owner.inputs[index] is None:
            continue
        values = numbers(owner.inputs[index])
        if values.ndim:
            name = f"{prefix}_{owner.op_type}_{index}"
            tensor = ir.tensor(values[order], name=name)
            owner.replace_input_with(index, initializer(graph, name, tensor))


def _transpose_pixels(new: Replacement, found: Shuffled) -> None:
    _, channels, height, width = found.sides
    row = [height, width, FACTOR, channels // FACTOR]
    picture = [1, FACTOR * height, FACTOR * width, channels // FACTOR**2]
    pixels = new.constant("pixels", np.array(row))
    places = new.constant("places", np.array(picture))
    y = new.add("Transpose", [found.quantise.outputs[0]], {"perm": [0, 2, 3, 1]})
    y = new.add("Reshape", [y, pixels])
    y = new.add("Transpose", [y], {"perm": [0, 2, 1, 3]})
    y = new.add("Reshape", [y, places])
    y = new.add("Transpose", [y], {"perm": [0, 3, 1, 2]})
    scale = found.dequantise.inputs[1:]
    y = new.add("DequantizeLinear", [y, *scale], found.dequantise.attributes)
    new.put(found.node, y)


def crop(model: ir.Model) -> int:
    """Crops before the codes are turned into floats, not after: a quarter of the bytes to move."""
    count = 0
    for node in nodes_of(model.graph, "Slice"):
        source = dequantise_of(node.inputs[0])
        if source is None:
            continue
        new = Replacement(model.graph, f"crop_{count}")
        codes = new.add("Slice", [source.inputs[0], *node.inputs[1:]], node.attributes)
        floats = new.add("DequantizeLinear", [codes, *source.inputs[1:]], source.attributes)
        new.put(node, floats)
        count += 1
    return count
