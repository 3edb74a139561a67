"""Convolutions that take in what stands behind them: a split (GEGLU) or a bias."""

import numpy as np
import onnx_ir as ir

from export.graphs.edit import (
    Before,
    array,
    attribute,
    attributes_of,
    clean,
    constant,
    infer,
    maker_of,
    nodes_of,
    numbers,
    operand,
    operands,
    optional_operand,
    scalar,
    shape,
    sole_consumer,
)
from export.rewrites.options import DEFAULTS, Options

CHANNELS = -3  # the axis of channels, counted from the back, of [C, h, w] and [B, C, h, w]


def geglu(model: ir.Model, options: Options = DEFAULTS) -> int:
    """A convolution that is split along its channels -> one convolution for each part.

    It works after `four_d`; before, a GEGLU's product is no convolution.

    Returns:
        How many splits went.
    """
    infer(model)
    count = 0
    for split in nodes_of(model.graph, "Split"):
        conv, steps = _convolution_before(split)
        if conv is not None:
            _split_convolution(model.graph, split, conv, steps)
            count += 1
    clean(model)
    return count


def _convolution_before(split: ir.Node) -> tuple[ir.Node | None, list[ir.Node]]:
    """The convolution that a split along channels cuts, and the operators between, last first.

    The convolution is None where another operator stands between, or a weight is computed.
    """
    steps: list[ir.Node] = []
    if attribute(split, "axis", 0) != 1:
        return None, steps
    value = operand(split, 0)
    node = maker_of(value)
    while node is not None and sole_consumer(value) is not None and _is_per_channel(node):
        steps.append(node)
        value = operand(node, 0)
        node = maker_of(value)
    if node is None or node.op_type != "Conv" or sole_consumer(value) is None:
        return None, steps
    stored = all(_is_stored(parameter) for parameter in operands(node)[1:])
    return (node if stored and attribute(node, "group", 1) == 1 else None), steps


def _is_per_channel(node: ir.Node) -> bool:
    """Whether an operator treats channels alike, or by a constant of their own."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return scalar(node.inputs[1]) is not None
    return node.op_type in ("Add", "Mul") and array(node.inputs[1]) is not None


def _is_stored(value: ir.Value) -> bool:
    """Whether a value is a constant, or integers with constant parameters."""
    node = maker_of(value, "DequantizeLinear")
    if node is None:
        return array(value) is not None
    return all(array(parameter) is not None for parameter in node.inputs)


def _split_convolution(
    graph: ir.Graph, split: ir.Node, conv: ir.Node, steps: list[ir.Node]
) -> None:
    at = Before(graph, split)
    start = 0
    for out in split.outputs:
        stop = start + shape(out)[1]
        parameters = [_rows(at, value, start, stop) for value in operands(conv)[1:]]
        y = at("Conv", conv.inputs[0], *parameters, **attributes_of(conv))
        for step in reversed(steps):
            extra = [_channels(at, value, start, stop) for value in step.inputs[1:]]
            y = at(step.op_type, y, *extra, **attributes_of(step))
        at.replace(out, y)
        start = stop


def _channels(at: Before, value: ir.Value | None, start: int, stop: int) -> ir.Value | None:
    """The channels `start` to `stop` of a constant that has channels, else the value."""
    values = array(value)
    if values is None or values.ndim < 3 or values.shape[CHANNELS] == 1:
        return value
    return constant(at.graph, values[..., start:stop, :, :], "part")


def _rows(at: Before, value: ir.Value, start: int, stop: int) -> ir.Value:
    """The rows `start` to `stop` of a constant, or of integers with a scale a tensor or a row."""
    node = maker_of(value, "DequantizeLinear")
    if node is None:
        return constant(at.graph, numbers(value)[start:stop], "part")
    inputs = []
    for index, stored in enumerate(operands(node)):
        values = numbers(stored)
        if index == 0 or values.size > 1:
            values = values[start:stop]
        tensor = ir.tensor(np.ascontiguousarray(values), dtype=stored.dtype)
        inputs.append(constant(at.graph, tensor, "part"))
    return at("DequantizeLinear", *inputs, **attributes_of(node))


def conv_bias(model: ir.Model, options: Options = DEFAULTS) -> int:
    """Conv, then a sum with one constant a channel -> the convolution's own bias.

    Returns:
        How many sums went.
    """
    infer(model)
    count = 0
    for node in nodes_of(model.graph, "Add"):
        conv = maker_of(node.inputs[0], "Conv")
        if conv is not None and _takes_bias(conv, node):
            bias = numbers(node.inputs[1]).reshape(-1).astype(np.float32)
            at = Before(model.graph, node)
            at.replace(node.outputs[0], at("Conv", *conv.inputs[:2], bias, **attributes_of(conv)))
            count += 1
    clean(model)
    return count


def _takes_bias(conv: ir.Node, add: ir.Node) -> bool:
    """Whether a convolution has no bias, and `add`, its only reader, adds one a channel."""
    values = array(add.inputs[1])
    if values is None or optional_operand(conv, 2) is not None:
        return False
    channels = shape(add.outputs[0])[1]
    per_channel = values.ndim >= 3 and values.shape[CHANNELS] == channels == values.size
    return per_channel and sole_consumer(conv.outputs[0]) is not None
