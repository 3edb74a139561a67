"""A GroupNorm's sums and products, in fewer passes over its map."""

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from export.graphs.cpu_forms.replacement import Replacement, dequantise_of, readers_of
from export.graphs.edit import array, maker_of, nodes_of, operand, static_shape

PART = 2**22  # bytes of floats between codes and codes: what stays in a cache
FLOAT_BYTES = 4


class ChannelOperator(NamedTuple):
    """A product or sum of a map [1, C, h, w] and a number per channel."""

    node: ir.Node
    map: ir.Value
    numbers: ir.Value


def _per_channel(node: ir.Node | None, op: str) -> ChannelOperator | None:
    """A node as an operator per channel, where it is `op` and has such an input."""
    if node is None or node.op_type != op:
        return None
    a = operand(node, 0)
    b = operand(node, 1)
    if _is_per_channel(a, b):
        return ChannelOperator(node, a, b)
    if _is_per_channel(b, a):
        return ChannelOperator(node, b, a)
    return None


def _is_per_channel(x: ir.Value, numbers: ir.Value) -> bool:
    """Whether `x` is a map [1, C, h, w] and `numbers` [C, 1, 1] or [1, C, 1, 1]."""
    sides = static_shape(x)
    given = static_shape(numbers)
    if sides is None or given is None or len(sides) != 4 or sides[2:] == (1, 1):
        return False
    channels = sides[1]
    return given[-3:] == (channels, 1, 1) and int(np.prod(given)) == channels


def affine(model: ir.Model) -> int:
    """x * factor + summand per channel as one BatchNormalization: one pass over the map."""
    graph = model.graph
    count = 0
    for node in list(graph):
        total = _per_channel(node, "Add")
        product = None if total is None else _per_channel(total.map.producer(), "Mul")
        if total is None or product is None or len(total.map.uses()) > 1:
            continue
        if total.map in graph.outputs:
            continue
        new = Replacement(graph, f"affine_{count}")
        numbers = [
            _column(new, "factor", product.numbers),
            _column(new, "summand", total.numbers),
            *_standard_statistics(new, _channels(product.map)),
        ]
        y = new.add("BatchNormalization", [product.map, *numbers], {"epsilon": 0.0})
        new.put(node, y, product.node)
        count += 1
    return count


def _channels(value: ir.Value) -> int:
    sides = static_shape(value)
    if sides is None:
        raise ValueError(f"{value} has no static shape")
    return sides[1]


def _column(new: Replacement, name: str, value: ir.Value) -> ir.Value:
    """A number per channel, as one axis."""
    values = array(value)
    if values is not None:
        return new.constant(name, values.reshape(-1))
    return new.add("Reshape", [value, new.constant(name, np.array([-1]))])


def _standard_statistics(new: Replacement, channels: int) -> list[ir.Value]:
    """Mean 0 and variance 1 per channel, which change nothing."""
    mean = new.constant("mean", np.full(channels, 0, np.float32))
    return [mean, new.constant("variance", np.full(channels, 1, np.float32))]


def squares(model: ir.Model) -> int:
    """The mean of x * x as a sum of squares over their number: no map of squares in between."""
    count = 0
    for node in nodes_of(model.graph, "ReduceMean"):
        product = _sole_square(node)
        if product is None:
            continue
        x = operand(product, 0)
        inside = static_shape(x)
        outside = static_shape(node.outputs[0])
        if inside is None or outside is None:
            continue
        new = Replacement(model.graph, f"squares_{count}")
        share = np.array(np.prod(outside) / np.prod(inside), np.float32)
        total = new.add("ReduceSumSquare", [x, node.inputs[1]], node.attributes)
        new.put(node, new.add("Mul", [total, new.constant("share", share)]), product)
        count += 1
    return count


def _sole_square(node: ir.Node) -> ir.Node | None:
    """The product x * x that a mean over given axes reads, and nothing else does."""
    product = maker_of(node.inputs[0], "Mul")
    if product is None or len(node.inputs) != 2 or len(product.outputs[0].uses()) > 1:
        return None
    return product if product.inputs[0] is product.inputs[1] else None


class Gated(NamedTuple):
    """A BatchNormalization of codes with its SiLU, up to codes again."""

    norm: ir.Node
    source: ir.Node
    sigmoid: ir.Node
    product: ir.Node
    quantise: ir.Node


def _gated(norm: ir.Node) -> Gated | None:
    """The chain that begins with a norm, where nothing else reads what is within."""
    source = dequantise_of(norm.inputs[0])
    readers = {node.op_type: node for node in readers_of(norm.outputs[0])}
    if source is None or set(readers) != {"Sigmoid", "Mul"} or len(norm.outputs[0].uses()) > 2:
        return None
    sigmoid = readers["Sigmoid"]
    product = readers["Mul"]
    quantisers = readers_of(product.outputs[0])
    if len(quantisers) != 1 or quantisers[0].op_type != "QuantizeLinear":
        return None
    if readers_of(sigmoid.outputs[0])[:1] != [product]:
        return None
    return Gated(norm, source, sigmoid, product, quantisers[0])


def parts(model: ir.Model) -> int:
    """GroupNorm's affine and SiLU between codes and codes, some channels at a time.

    As a whole, floats of a large map leave the cache between any two of these operators.
    """
    count = 0
    for norm in nodes_of(model.graph, "BatchNormalization"):
        chain = _gated(norm)
        sides = static_shape(norm.outputs[0])
        if chain is None or sides is None or sides[0] != 1:
            continue
        size = FLOAT_BYTES * int(np.prod(sides))
        if size > PART:
            new = Replacement(model.graph, f"parts_{count}")
            _compute_in_parts(new, chain, sides[1], _pieces(sides[1], size))
            count += 1
    return count


def _pieces(channels: int, size: int) -> int:
    """Into how many equal parts a map of `size` bytes is cut along its channels."""
    for pieces in range(1, channels):
        if channels % pieces == 0 and size <= pieces * PART:
            return pieces
    return channels


def _compute_in_parts(new: Replacement, chain: Gated, channels: int, pieces: int) -> None:
    width = channels // pieces
    sides = new.constant("sides", np.full(pieces, width))
    statistics = _standard_statistics(new, width)
    norm = chain.norm
    split = [
        new.several("Split", [value, sides], {"axis": axis}, pieces)
        for value, axis in ((chain.source.inputs[0], 1), (norm.inputs[1], 0), (norm.inputs[2], 0))
    ]
    done = []
    for codes, factor, summand in zip(*split, strict=True):
        floats = new.add(
            "DequantizeLinear", [codes, *chain.source.inputs[1:]], chain.source.attributes
        )
        y = new.add("BatchNormalization", [floats, factor, summand, *statistics], norm.attributes)
        gated = new.add("Mul", [y, new.add("Sigmoid", [y])])
        scale = chain.quantise.inputs[1:]
        done.append(new.add("QuantizeLinear", [gated, *scale], chain.quantise.attributes))
    result = new.add("Concat", done, {"axis": 1})
    new.put(chain.quantise, result, chain.product, chain.sigmoid, norm)
