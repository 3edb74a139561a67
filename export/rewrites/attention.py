"""Attention per head and chunk of queries, as matrix products or as convolutions; GEGLU as two convolutions."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.rewrites.edit import (
    Before,
    Options,
    array,
    attribute,
    clean,
    constant,
    infer,
    scalar,
    shape,
    sole_consumer,
)

BETWEEN = ("Mul", "Div", "Add", "Sub", "QuantizeLinear", "DequantizeLinear", "Softmax", "Clip")
ALIGN = 16  # channels of a kernel that is computed, on MediaTek's MDLA


@dataclass
class Region:
    """softmax(Q K) V: the first product, what stands between, the second product."""

    first: ir.Node
    between: list[ir.Node]
    last: ir.Node


def regions(graph: ir.Graph) -> list[Region]:
    """Every product that runs through element-wise operators and one Softmax over keys into the next product."""
    found = []
    for first in graph:
        if first.op_type != "MatMul" or len(shape(first.inputs[1])) < 3:  # a weight has two axes
            continue
        value, between = first.outputs[0], []
        while (
            (node := sole_consumer(value)) is not None
            and node.op_type in BETWEEN
            and node.inputs[0] is value
        ):
            between.append(node)
            value = node.outputs[0]
        softmax = [n for n in between if n.op_type == "Softmax"]
        if (
            node is not None
            and node.op_type == "MatMul"
            and node.inputs[0] is value
            and len(softmax) == 1
        ):
            rank = len(shape(first.outputs[0]))
            if rank in (3, 4) and attribute(softmax[0], "axis", -1) in (-1, rank - 1):
                found.append(Region(first, between, node))
    return found


def attention_heads(model: ir.Model, options: Options = Options()) -> int:
    """One product for each head and `options.chunk` queries: small score matrices, and none of several heads."""
    return _replace(model, options, _as_products)


def attention_convolutions(model: ir.Model, options: Options = Options()) -> int:
    """The same, each product a 1x1 convolution whose kernel is K or V, for runtimes without a batched product.

    Scores are [1, keys, 1, queries] and softmax runs over channels. MediaTek's accelerator takes a computed kernel
    with channels in multiples of 16: heads are padded with zeros up to that.
    """
    return _replace(model, options, _as_convolutions)


def _replace(model: ir.Model, options: Options, one_head: Callable) -> int:
    infer(model)
    count = 0
    for region in regions(model.graph):
        q, k = region.first.inputs
        sides = shape(q)
        batch = 1 if len(sides) == 3 else sides[0]
        heads, queries = sides[-3], sides[-2]
        chunk = min(options.chunk or queries, queries)
        convolutions = one_head is _as_convolutions
        # Windows lie on the batch axis: products take them all at once, convolutions have one kernel for all.
        if convolutions and batch > 1 or not convolutions and heads == 1 and chunk == queries:
            continue
        if shape(k)[-3] != heads or shape(region.last.inputs[1])[-3] != heads:
            continue
        _rewrite(model.graph, region, heads, queries, chunk, one_head)
        count += 1
    clean(model)
    return count


def _rewrite(
    graph: ir.Graph, region: Region, heads: int, queries: int, chunk: int, one_head: Callable
) -> None:
    at = Before(graph, region.last)
    q, k, v = *region.first.inputs, region.last.inputs[1]
    axis = len(shape(q)) - 3
    done = []
    for head in range(heads):
        mine = [_head(at, x, axis, head) if heads > 1 else x for x in (q, k, v)]
        if axis == 0:  # three axes: [heads, queries, d]
            mine = [at("Unsqueeze", x, np.array([0])) for x in mine]
        rows = []
        for start in range(0, queries, chunk):
            stop = min(start + chunk, queries)
            part = at.slice(mine[0], 2, start, stop) if chunk < queries else mine[0]
            rows.append(one_head(at, region, part, mine[1], mine[2], head, slice(start, stop)))
        done.append(at("Concat", *rows, axis=2) if len(rows) > 1 else rows[0])
    y = at("Concat", *done, axis=1) if heads > 1 else done[0]
    at.replace(region.last.outputs[0], at("Squeeze", y, np.array([0])) if axis == 0 else y)


def _head(at: Before, x: ir.Value, axis: int, head: int) -> ir.Value:
    if array(x) is None:
        return at.slice(x, axis, head, head + 1)
    return constant(at.graph, array(x).take([head], axis), "head")


def _part(at: Before, value: ir.Value, sides: tuple[int, ...], head: int, rows: slice) -> ir.Value:
    """The share of one head and its queries of an operand that is added to the scores [B, heads, queries, keys]."""
    have = (1,) * (4 - len(shape(value))) + shape(value)
    if len(shape(value)) < 2 or have[1:3] == (1, 1):
        return value
    values = array(value)
    if values is not None:
        values = values.reshape(have)
        values = values[:, head : head + 1] if have[1] > 1 else values
        return constant(at.graph, values[:, :, rows] if have[2] > 1 else values, "bias")
    if len(shape(value)) < 4:
        value = at.reshape(value, have)
    value = at.slice(value, 1, head, head + 1) if have[1] > 1 else value
    cut = have[2] > 1 and (rows.start, rows.stop) != (0, have[2])
    return at.slice(value, 2, rows.start, rows.stop) if cut else value


def _middle(
    at: Before, region: Region, scores: ir.Value, head: int, rows: slice, turned: bool
) -> ir.Value:
    """What stands between the products, on one head; `turned`: on [1, keys, 1, queries]."""
    sides = shape(region.first.outputs[0])
    for node in region.between:
        extra = [None if v is None else _part(at, v, sides, head, rows) for v in node.inputs[1:]]
        if turned and node.op_type not in ("Softmax", "QuantizeLinear", "DequantizeLinear", "Clip"):
            extra = [
                v
                if v is None or v.shape is not None and len(v.shape) < 2
                else at.transpose(v, [0, 3, 1, 2])
                for v in extra
            ]
        attributes = {name: a.value for name, a in node.attributes.items()}
        if node.op_type == "Softmax":
            attributes["axis"] = 1 if turned else 3
        scores = at(node.op_type, scores, *extra, **attributes)
    return scores


def _as_products(at: Before, region: Region, q, k, v, head: int, rows: slice) -> ir.Value:
    return at("MatMul", _middle(at, region, at("MatMul", q, k), head, rows, False), v)


def _as_convolutions(at: Before, region: Region, q, k, v, head: int, rows: slice) -> ir.Value:
    """q [1, 1, queries, d], k [1, 1, d, keys], v [1, 1, keys, d'] -> [1, 1, queries, d']."""
    inner, values = shape(region.first.inputs[0])[-1], shape(region.last.inputs[1])[-1]

    def padded(x: ir.Value, axis: int, size: int) -> ir.Value:
        ends = [0] * 8
        ends[4 + axis] = -size % ALIGN
        return at("Pad", x, np.array(ends, dtype=np.int64), np.float32(0)) if ends[4 + axis] else x

    query = padded(at.transpose(q, [0, 3, 1, 2]), 1, inner)  # [1, d, 1, queries]
    kernel = padded(at.transpose(k, [3, 2, 0, 1]), 1, inner)  # [keys, d, 1, 1]
    scores = _middle(at, region, at("Conv", query, kernel, kernel_shape=[1, 1]), head, rows, True)
    kernel = padded(at.transpose(v, [3, 2, 0, 1]), 0, values)  # [d', keys, 1, 1]
    y = at("Conv", scores, kernel, kernel_shape=[1, 1])  # [1, d', 1, queries]
    return at.transpose(at.slice(y, 1, 0, values) if values % ALIGN else y, [0, 2, 3, 1])


def geglu(model: ir.Model, options: Options = Options()) -> int:
    """A convolution that is split along its channels -> one convolution for each part, after `four_d`."""
    infer(model)
    count = 0
    for node in [n for n in model.graph if n.op_type == "Split" and attribute(n, "axis", 0) == 1]:
        chain, value = [], node.inputs[0]
        while (made := value.producer()) is not None and sole_consumer(value) is not None:
            chain.append(made)
            if made.op_type == "Conv" or not _per_channel(made):
                break
            value = made.inputs[0]
        if not chain or chain[-1].op_type != "Conv" or attribute(chain[-1], "group", 1) != 1:
            continue
        conv = chain[-1]
        at = Before(model.graph, node)
        start = 0
        parts = [_weight_part(at, conv.inputs[1], 0, shape(node.outputs[0])[1])]
        if parts[0] is None:
            continue
        for out in node.outputs:
            stop = start + shape(out)[1]
            weight = _weight_part(at, conv.inputs[1], start, stop)
            bias = [_slice0(at, v, start, stop) for v in conv.inputs[2:] if v is not None]
            y = at(
                "Conv",
                conv.inputs[0],
                weight,
                *bias,
                **{k: a.value for k, a in conv.attributes.items()},
            )
            for step in reversed(chain[:-1]):
                extra = [_channels(at, v, start, stop) for v in step.inputs[1:]]
                y = at(step.op_type, y, *extra, **{k: a.value for k, a in step.attributes.items()})
            at.replace(out, y)
            start = stop
        count += 1
    clean(model)
    return count


def _per_channel(node: ir.Node) -> bool:
    """An operator that treats channels alike or by a constant of their own."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return scalar(node.inputs[1]) is not None
    return node.op_type in ("Add", "Mul") and array(node.inputs[1]) is not None


def _channels(at: Before, value: ir.Value | None, start: int, stop: int) -> ir.Value | None:
    values = array(value)
    if values is None or values.ndim < 3 or values.shape[-3] == 1:
        return value
    return constant(at.graph, values[..., start:stop, :, :], "part")


def _slice0(at: Before, value: ir.Value, start: int, stop: int) -> ir.Value:
    made = value.producer()
    if array(value) is None and made is not None and made.op_type == "DequantizeLinear":
        return _weight_part(at, value, start, stop)
    return constant(at.graph, array(value)[start:stop], "part")


def _weight_part(at: Before, value: ir.Value, start: int, stop: int) -> ir.Value | None:
    """Rows start..stop of a constant, or of one that is stored as integers with a scale a tensor or a row."""
    if array(value) is not None:
        return constant(at.graph, array(value)[start:stop], "part")
    made = value.producer()
    if (
        made is None
        or made.op_type != "DequantizeLinear"
        or any(array(v) is None for v in made.inputs)
    ):
        return None
    inputs = []
    for i, stored in enumerate(made.inputs):
        values = array(stored)
        values = values[start:stop] if i == 0 or values.size > 1 else values
        tensor = ir.tensor(np.ascontiguousarray(values), dtype=stored.dtype)
        inputs.append(constant(at.graph, tensor, "part"))
    return at("DequantizeLinear", *inputs, **{k: a.value for k, a in made.attributes.items()})


def conv_bias(model: ir.Model, options: Options = Options()) -> int:
    """Conv, then a sum with one constant a channel -> the convolution's own bias."""
    infer(model)
    count = 0
    for node in [n for n in model.graph if n.op_type == "Add"]:
        conv, values = node.inputs[0].producer(), array(node.inputs[1])
        if conv is None or conv.op_type != "Conv" or values is None:
            continue
        if len(conv.inputs) > 2 and conv.inputs[2] is not None:
            continue
        channels = shape(node.outputs[0])[1]
        if (
            sole_consumer(node.inputs[0]) is None
            or values.size != channels
            or values.ndim < 3
            or (values.shape[-3] != channels)
        ):
            continue
        at = Before(model.graph, node)
        new = at(
            "Conv",
            *conv.inputs[:2],
            values.reshape(-1).astype(np.float32),
            **{k: a.value for k, a in conv.attributes.items()},
        )
        at.replace(node.outputs[0], new)
        count += 1
    clean(model)
    return count
