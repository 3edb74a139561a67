"""Operators that move pixels: enlargement, padding and pixel shuffles."""

import numpy as np
import onnx_ir as ir

from export.graphs.edit import (
    Before,
    array,
    attribute,
    clean,
    infer,
    maker_of,
    nodes_of,
    operand,
    shape,
    sole_consumer,
)
from export.rewrites.options import DEFAULTS, Options

# Orders of the six axes between the two reshapes of torch's pixel shuffles.
SHUFFLE = [0, 1, 4, 2, 5, 3]  # of [B, C, f, f, h, w]
UNSHUFFLE = [0, 1, 3, 5, 2, 4]  # of [B, C, h, f, w, f]


def resize_nearest(model: ir.Model, options: Options = DEFAULTS) -> int:
    """Nearest enlargement by whole factors: half-pixel coordinates -> asymmetric and floor.

    The pixels are the same. The Hexagon compiler reads the half-pixel form as another one and
    shifts the picture.

    Returns:
        How many enlargements changed.
    """
    resizes = nodes_of(model.graph, "Resize")
    if resizes:
        infer(model)
    count = 0
    for node in resizes:
        if _is_half_pixel_nearest(node) and _is_whole(node):
            wanted = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            for name, value in wanted.items():
                node.attributes[name] = ir.AttrString(name, value)
            count += 1
    return count


def _is_half_pixel_nearest(node: ir.Node) -> bool:
    given = (
        attribute(node, "mode", "nearest"),
        attribute(node, "coordinate_transformation_mode", "half_pixel"),
        attribute(node, "nearest_mode", "round_prefer_floor"),
    )
    return given in (
        ("nearest", "half_pixel", "round_prefer_floor"),
        ("nearest", "half_pixel", ""),
    )


def _is_whole(node: ir.Node) -> bool:
    """Whether every side grows by a whole factor."""
    before = shape(node.inputs[0])
    after = shape(node.outputs[0])
    return all(new % old == 0 for old, new in zip(before, after, strict=True))


def edge_padding(model: ir.Model, options: Options = DEFAULTS) -> int:
    """Padding that repeats the border -> the border's rows and columns, concatenated.

    The Hexagon simulator answers the padding with NaN in float16; MediaTek has none.

    Returns:
        How many paddings went.
    """
    pads = [
        node
        for node in nodes_of(model.graph, "Pad")
        if attribute(node, "mode", "constant") == "edge"
    ]
    if pads:
        infer(model)
    count = 0
    for node in pads:
        ends = array(node.inputs[1])
        rank = len(shape(node.inputs[0]))
        if ends is not None and ends.size == 2 * rank and (ends >= 0).all():
            _concatenate_borders(model.graph, node, ends)
            count += 1
    clean(model)
    return count


def _concatenate_borders(graph: ir.Graph, node: ir.Node, ends: np.ndarray) -> None:
    at = Before(graph, node)
    x = operand(node, 0)
    sides = shape(x)
    firsts, lasts = ends.reshape(2, -1).tolist()
    for axis, side in enumerate(sides):
        if firsts[axis] == lasts[axis] == 0:
            continue
        head = [at.slice(x, axis, 0, 1)] * firsts[axis]
        tail = [at.slice(x, axis, side - 1, side)] * lasts[axis]
        x = at("Concat", *head, x, *tail, axis=axis)
    at.replace(node.outputs[0], x)


def pixel_shuffle(model: ir.Model, options: Options = DEFAULTS) -> int:
    """Reshape, Transpose with six axes, Reshape: PixelShuffle -> DepthToSpace.

    A PixelUnshuffle becomes a fixed convolution. ONNX's SpaceToDepth orders channels otherwise
    than torch does, so that it would need another shuffle.

    Returns:
        How many shuffles of both kinds were found.
    """
    transposes = [
        node for node in nodes_of(model.graph, "Transpose") if _order(node) in (SHUFFLE, UNSHUFFLE)
    ]
    if transposes:
        infer(model)
    count = 0
    for node in transposes:
        before = maker_of(node.inputs[0], "Reshape")
        after = sole_consumer(node.outputs[0], "Reshape")
        if before is None or after is None:
            continue
        at = Before(model.graph, node)
        new = _shuffled(at, node, operand(before, 0), after.outputs[0])
        if new is not None:
            at.replace(after.outputs[0], new)
            count += 1
    clean(model)
    return count


def _order(node: ir.Node) -> list[int]:
    """The order of axes of a Transpose; empty where it is the default one."""
    return list(attribute(node, "perm", ()))


def _shuffled(at: Before, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value | None:
    """What makes `y` of `x`, where the transpose between them is a shuffle of four axes."""
    if not len(shape(x)) == len(shape(y)) == 4:
        return None
    _, channels, a, b, _, c = shape(node.inputs[0])
    if _order(node) == SHUFFLE and a == b:
        return at("DepthToSpace", x, blocksize=a, mode="CRD")
    if _order(node) == UNSHUFFLE and b == c:
        kernel = unshuffle_kernel(channels, b)
        return at("Conv", x, kernel, kernel_shape=[b, b], strides=[b, b])
    return None


def unshuffle_kernel(channels: int, factor: int) -> np.ndarray:
    """The kernel of a convolution that does what torch's PixelUnshuffle does.

    Returns:
        float32 [C * f^2, C, f, f] of ones and zeros: channel c, row i, column j -> channel
        (c * f + i) * f + j.
    """
    outputs = channels * factor**2
    kernel = np.zeros((outputs, channels, factor, factor), np.float32)
    for out in range(outputs):
        channel, place = divmod(out, factor**2)
        kernel[out, channel, place // factor, place % factor] = 1
    return kernel
