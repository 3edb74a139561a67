"""Normalisation in the forms that NPUs have."""

import numpy as np
import onnx_ir as ir

from export.rewrites.edit import Before, Options, array, attribute, clean, infer, shape


def group_norm(model: ir.Model, options: Options = Options()) -> int:
    """GroupNormalization -> InstanceNormalization on [B, G, C/G * h, w], then scale and shift per channel.

    No NPU here has a quantised GroupNorm; the Hexagon's InstanceNorm works quantised at rank 3 and 4.
    """
    found = [n for n in model.graph if n.op_type == "GroupNormalization"]
    if found:
        infer(model)
    for node in found:
        x, scale, bias = node.inputs
        batch, channels, *rest = shape(x)
        groups, at = attribute(node, "num_groups"), Before(model.graph, node)
        *front, last = rest if len(rest) > 1 else (*rest, 1)
        inside = at.reshape(x, [batch, groups, channels // groups * int(np.prod(front)), last])
        y = at(
            "InstanceNormalization",
            inside,
            np.ones(groups, np.float32),
            np.zeros(groups, np.float32),
            epsilon=attribute(node, "epsilon", 1e-5),
        )
        y = at.reshape(y, shape(x))
        column = [1, channels, *[1] * len(rest)]
        per_group = (
            model.graph.opset_imports[""] < 21
        )  # until then scale and bias had one number a group
        for op, value in (("Mul", scale), ("Add", bias)):
            values = array(value)
            if values is None:
                y = at(op, y, at.reshape(value, column))
            else:
                values = np.repeat(values, channels // groups) if per_group else values
                y = at(op, y, values.reshape(column))
        at.replace(node.outputs[0], y)
    clean(model)
    return len(found)


def _normalised(at: Before, x: ir.Value, axes: list[int], epsilon: float) -> ir.Value:
    where = np.array(axes, dtype=np.int64)
    centred = at("Sub", x, at("ReduceMean", x, where, keepdims=1))
    variance = at("ReduceMean", at("Mul", centred, centred), where, keepdims=1)
    root = at("Sqrt", at("Add", variance, np.float32(epsilon)))
    return at("Mul", centred, at("Reciprocal", root))


def _affine(at: Before, x: ir.Value, node: ir.Node, sides: list[int]) -> ir.Value:
    """Scale and shift, without those that do nothing."""
    for op, value, neutral in zip(("Mul", "Add"), node.inputs[1:], (1, 0), strict=False):
        values = array(value)
        if value is None or values is not None and (values == neutral).all():
            continue
        x = at(op, x, at.reshape(value, sides) if values is None else values.reshape(sides))
    return x


def instance_statistics(model: ir.Model, options: Options = Options()) -> int:
    """InstanceNormalization -> mean, variance, product, sum: for runtimes without it."""
    infer(model)
    found = [n for n in model.graph if n.op_type == "InstanceNormalization"]
    for node in found:
        x, at = node.inputs[0], Before(model.graph, node)
        rank = len(shape(x))
        y = _normalised(at, x, list(range(2, rank)), attribute(node, "epsilon", 1e-5))
        at.replace(node.outputs[0], _affine(at, y, node, [1, -1, *[1] * (rank - 2)]))
    clean(model)
    return len(found)


def layer_statistics(model: ir.Model, options: Options = Options()) -> int:
    """LayerNormalization over the last axis -> mean, variance, product, sum; after `four_d`, over the channel axis and
    without a transpose."""
    infer(model)
    found = [
        n
        for n in model.graph
        if n.op_type == "LayerNormalization"
        and len(n.outputs) == 1
        and attribute(n, "axis", -1) in (-1, len(shape(n.inputs[0])) - 1)
    ]
    for node in found:
        x, at = node.inputs[0], Before(model.graph, node)
        y = _normalised(at, x, [len(shape(x)) - 1], attribute(node, "epsilon", 1e-5))
        at.replace(node.outputs[0], _affine(at, y, node, [-1]))
    clean(model)
    return len(found)
