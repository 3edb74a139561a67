"""Normalisation in the forms that NPUs have."""

import numpy as np
import onnx_ir as ir

from export.graphs.edit import Before, array, attribute, clean, infer, nodes_of, operand, shape
from export.rewrites.options import DEFAULTS, Options

EPSILON = 1e-5  # where a node leaves it out
PER_CHANNEL_OPSET = 21  # until then GroupNormalization's scale and bias had one number a group


def group_norm(model: ir.Model, options: Options = DEFAULTS) -> int:
    """GroupNormalization -> InstanceNormalization on [B, G, C / G * h, w], then scale and shift.

    Scale and shift are per channel. No NPU here has a quantised GroupNorm; the Hexagon's
    InstanceNorm works quantised on three and four axes.

    Returns:
        How many normalisations changed.
    """
    norms = nodes_of(model.graph, "GroupNormalization")
    if norms:
        infer(model)
    for node in norms:
        _normalise_groups(model.graph, node)
    clean(model)
    return len(norms)


def _normalise_groups(graph: ir.Graph, node: ir.Node) -> None:
    at = Before(graph, node)
    x = operand(node, 0)
    batch, channels, *rest = shape(x)
    groups = attribute(node, "num_groups")
    *front, last = rest if len(rest) > 1 else [*rest, 1]
    inside = [batch, groups, channels // groups * int(np.prod(front)), last]
    y = at(
        "InstanceNormalization",
        at.reshape(x, inside),
        np.ones(groups, np.float32),
        np.zeros(groups, np.float32),
        epsilon=attribute(node, "epsilon", EPSILON),
    )
    y = at.reshape(y, shape(x))
    column = [1, channels, *[1] * len(rest)]
    for op, value in (("Mul", operand(node, 1)), ("Add", operand(node, 2))):
        values = array(value)
        if values is None:
            y = at(op, y, at.reshape(value, column))
            continue
        if graph.opset_imports[""] < PER_CHANNEL_OPSET:
            values = np.repeat(values, channels // groups)
        y = at(op, y, values.reshape(column))
    at.replace(node.outputs[0], y)


def _normalised(at: Before, x: ir.Value, axes: list[int], epsilon: float) -> ir.Value:
    """(x - mean) / sqrt(variance + epsilon) over `axes`."""
    over = np.array(axes, dtype=np.int64)
    centred = at("Sub", x, at("ReduceMean", x, over, keepdims=1))
    variance = at("ReduceMean", at("Mul", centred, centred), over, keepdims=1)
    root = at("Sqrt", at("Add", variance, np.float32(epsilon)))
    return at("Mul", centred, at("Reciprocal", root))


def _scaled_and_shifted(at: Before, x: ir.Value, node: ir.Node, sides: list[int]) -> ir.Value:
    """With the scale and shift of a norm, whose shape is `sides`, unless they do nothing."""
    for op, value, neutral in zip(("Mul", "Add"), node.inputs[1:], (1, 0), strict=False):
        values = array(value)
        if values is not None and not (values == neutral).all():
            x = at(op, x, values.reshape(sides))
        elif values is None and value is not None:
            x = at(op, x, at.reshape(value, sides))
    return x


def instance_statistics(model: ir.Model, options: Options = DEFAULTS) -> int:
    """InstanceNormalization -> mean, variance, product, sum: for runtimes without it.

    Returns:
        How many normalisations went.
    """
    infer(model)
    norms = nodes_of(model.graph, "InstanceNormalization")
    for node in norms:
        x = operand(node, 0)
        rank = len(shape(x))
        at = Before(model.graph, node)
        y = _normalised(at, x, list(range(2, rank)), attribute(node, "epsilon", EPSILON))
        y = _scaled_and_shifted(at, y, node, [1, -1, *[1] * (rank - 2)])
        at.replace(node.outputs[0], y)
    clean(model)
    return len(norms)


def layer_statistics(model: ir.Model, options: Options = DEFAULTS) -> int:
    """LayerNormalization over the last axis -> mean, variance, product, sum.

    After `four_d` they go over the channel axis, without a transpose.

    Returns:
        How many normalisations went.
    """
    infer(model)
    norms = [node for node in nodes_of(model.graph, "LayerNormalization") if _over_last_axis(node)]
    for node in norms:
        x = operand(node, 0)
        at = Before(model.graph, node)
        y = _normalised(at, x, [len(shape(x)) - 1], attribute(node, "epsilon", EPSILON))
        at.replace(node.outputs[0], _scaled_and_shifted(at, y, node, [-1]))
    clean(model)
    return len(norms)


def _over_last_axis(node: ir.Node) -> bool:
    last = len(shape(node.inputs[0])) - 1
    return len(node.outputs) == 1 and attribute(node, "axis", -1) in (-1, last)
