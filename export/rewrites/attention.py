"""Attention by head and chunk of queries, as matrix products or as convolutions."""

from collections.abc import Callable
from dataclasses import dataclass

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
    nodes_of,
    operand,
    shape,
    sole_consumer,
    static_shape,
)
from export.rewrites.options import DEFAULTS, Options

ARITHMETIC = ("Mul", "Div", "Add", "Sub")
BETWEEN = (*ARITHMETIC, "QuantizeLinear", "DequantizeLinear", "Softmax", "Clip")
ALIGN = 16  # channels of a kernel that is computed, on MediaTek's MDLA
RANK = 4  # [batch, heads, queries, keys]


@dataclass(frozen=True)
class Region:
    """softmax(Q K) V on [heads, queries, ...] or [batch, heads, queries, ...].

    Attributes:
        first: The product of Q and K.
        between: What stands between the products, in order; one of them is a Softmax over keys.
        last: The product with V.
        rank: The axes of Q, K and V: 3 or 4.
    """

    first: ir.Node
    between: list[ir.Node]
    last: ir.Node
    rank: int

    @property
    def inputs(self) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Q, K and V."""
        return operand(self.first, 0), operand(self.first, 1), operand(self.last, 1)


@dataclass(frozen=True)
class Extent:
    """How large a region is, and how many queries one product takes of it (`chunk`)."""

    batch: int
    heads: int
    queries: int
    chunk: int


@dataclass(frozen=True)
class Share:
    """What one product computes of a region: one head and some of its queries."""

    region: Region
    head: int
    rows: slice


# (place for nodes, share, its Q, K and V with four axes) -> what the second product gives.
Form = Callable[[Before, Share, ir.Value, ir.Value, ir.Value], ir.Value]


def regions(graph: ir.Graph) -> list[Region]:
    """Every product that runs through element-wise operators and a Softmax into another one."""
    candidates = [_region(first) for first in nodes_of(graph, "MatMul")]
    return [region for region in candidates if region is not None]


def _region(first: ir.Node) -> Region | None:
    """The region that begins with a product, or None."""
    between: list[ir.Node] = []
    value = first.outputs[0]
    node = sole_consumer(value)
    while node is not None and node.op_type in BETWEEN and node.inputs[0] is value:
        between.append(node)
        value = node.outputs[0]
        node = sole_consumer(value)
    if node is None or node.op_type != "MatMul" or node.inputs[0] is not value:
        return None
    region = Region(first, between, node, len(shape(first.outputs[0])))
    return region if _is_attention(region) else None


def _is_attention(region: Region) -> bool:
    """Whether no operand is a matrix or broadcast, and softmax goes over the keys."""
    ranks = {len(shape(value)) for value in region.inputs}
    softmaxes = [node for node in region.between if node.op_type == "Softmax"]
    if region.rank not in (3, 4) or ranks != {region.rank} or len(softmaxes) != 1:
        return False
    return attribute(softmaxes[0], "axis", -1) in (-1, region.rank - 1)


def _extent(region: Region, chunk: int | None) -> Extent:
    *batch, heads, queries, _ = shape(region.inputs[0])
    return Extent(batch[0] if batch else 1, heads, queries, min(chunk or queries, queries))


def attention_heads(model: ir.Model, options: Options = DEFAULTS) -> int:
    """One product for each head and chunk of queries: small score matrices of one head.

    Args:
        model: A graph of static shapes; it is changed in place.
        options: `chunk` is the number of queries that one product sees at most.

    Returns:
        How many attentions were rewritten.
    """

    def takes(extent: Extent) -> bool:
        """Windows on the batch axis are taken all at once."""
        return extent.heads > 1 or extent.chunk < extent.queries

    return _replace(model, options, _as_products, takes)


def attention_convolutions(model: ir.Model, options: Options = DEFAULTS) -> int:
    """The same, each product a 1x1 convolution whose kernel is K or V.

    This is for runtimes without a batched product. Scores are [1, keys, 1, queries], and softmax
    runs over channels. MediaTek's accelerator takes a computed kernel with channels in multiples
    of 16; heads are padded with zeros up to that.

    Args:
        model: A graph of static shapes; it is changed in place.
        options: `chunk` is the number of queries that one convolution sees at most.

    Returns:
        How many attentions were rewritten.
    """

    def takes(extent: Extent) -> bool:
        """A convolution has one kernel for all windows of the batch axis."""
        return extent.batch == 1

    return _replace(model, options, _as_convolutions, takes)


def _replace(model: ir.Model, options: Options, form: Form, takes: Callable[[Extent], bool]) -> int:
    infer(model)
    count = 0
    for region in regions(model.graph):
        extent = _extent(region, options.chunk)
        heads = {shape(value)[-3] for value in region.inputs}
        if takes(extent) and heads == {extent.heads}:
            _rewrite(model.graph, region, extent, form)
            count += 1
    clean(model)
    return count


def _rewrite(graph: ir.Graph, region: Region, extent: Extent, form: Form) -> None:
    at = Before(graph, region.last)
    heads = [_one_head(at, region, extent, head, form) for head in range(extent.heads)]
    y = _concatenated(at, heads, 1)
    if region.rank < RANK:
        y = at("Squeeze", y, np.array([0]))
    at.replace(region.last.outputs[0], y)


def _one_head(at: Before, region: Region, extent: Extent, head: int, form: Form) -> ir.Value:
    """What one head gives, [batch, 1, queries, d]."""
    q, k, v = region.inputs
    if extent.heads > 1:
        q, k, v = [_slice_head(at, value, region.rank - 3, head) for value in (q, k, v)]
    if region.rank < RANK:
        q, k, v = [at("Unsqueeze", value, np.array([0])) for value in (q, k, v)]
    outputs = []
    for start in range(0, extent.queries, extent.chunk):
        stop = min(start + extent.chunk, extent.queries)
        part = q if extent.chunk == extent.queries else at.slice(q, 2, start, stop)
        outputs.append(form(at, Share(region, head, slice(start, stop)), part, k, v))
    return _concatenated(at, outputs, 2)


def _concatenated(at: Before, values: list[ir.Value], axis: int) -> ir.Value:
    if len(values) == 1:
        return values[0]
    return at("Concat", *values, axis=axis)


def _slice_head(at: Before, value: ir.Value, axis: int, head: int) -> ir.Value:
    values = array(value)
    if values is None:
        return at.slice(value, axis, head, head + 1)
    return constant(at.graph, values.take([head], axis), "head")


def _operand_of(at: Before, value: ir.Value | None, share: Share) -> ir.Value | None:
    """What a share takes of an operand that is added to the scores [B, heads, queries, keys]."""
    if value is None:
        return None
    given = shape(value)
    sides = (1,) * (RANK - len(given)) + given
    if sides[1:3] == (1, 1):
        return value
    values = array(value)
    if values is not None:
        heads = slice(share.head, share.head + 1) if sides[1] > 1 else slice(None)
        rows = share.rows if sides[2] > 1 else slice(None)
        return constant(at.graph, values.reshape(sides)[:, heads, rows], "bias")
    if len(given) < RANK:
        value = at.reshape(value, sides)
    if sides[1] > 1:
        value = at.slice(value, 1, share.head, share.head + 1)
    if sides[2] > 1 and (share.rows.start, share.rows.stop) != (0, sides[2]):
        value = at.slice(value, 2, share.rows.start, share.rows.stop)
    return value


def _between(at: Before, share: Share, scores: ir.Value, turned: bool) -> ir.Value:
    """What stands between the products, on one head; `turned`: on [1, keys, 1, queries]."""
    for node in share.region.between:
        extra = [_operand_of(at, value, share) for value in node.inputs[1:]]
        if turned and node.op_type in ARITHMETIC:
            extra = [_turned(at, value) for value in extra]
        attributes = attributes_of(node)
        if node.op_type == "Softmax":
            attributes["axis"] = 1 if turned else 3
        scores = at(node.op_type, scores, *extra, **attributes)
    return scores


def _turned(at: Before, value: ir.Value | None) -> ir.Value | None:
    """An operand of scores [1, 1, queries, keys] for scores [1, keys, 1, queries]."""
    if value is None:
        return None
    sides = static_shape(value)  # None for what was just sliced, which has four axes
    if sides is not None and np.prod(sides) == 1 and len(sides) < 2:
        return value
    if sides is not None and len(sides) < RANK:
        value = at.reshape(value, (1,) * (RANK - len(sides)) + sides)
    return at.transpose(value, [0, 3, 1, 2])


def _as_products(at: Before, share: Share, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
    scores = _between(at, share, at("MatMul", q, k), turned=False)
    return at("MatMul", scores, v)


def _as_convolutions(at: Before, share: Share, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
    """q [1, 1, queries, d], k [1, 1, d, keys], v [1, 1, keys, d'] -> [1, 1, queries, d']."""
    inner = shape(share.region.inputs[0])[-1]
    values = shape(share.region.inputs[2])[-1]
    query = _padded(at, at.transpose(q, [0, 3, 1, 2]), 1, inner)  # [1, d, 1, queries]
    kernel = _padded(at, at.transpose(k, [3, 2, 0, 1]), 1, inner)  # [keys, d, 1, 1]
    scores = at("Conv", query, kernel, kernel_shape=[1, 1])  # [1, keys, 1, queries]
    scores = _between(at, share, scores, turned=True)
    kernel = _padded(at, at.transpose(v, [3, 2, 0, 1]), 0, values)  # [d', keys, 1, 1]
    y = at("Conv", scores, kernel, kernel_shape=[1, 1])  # [1, d', 1, queries]
    if values % ALIGN:
        y = at.slice(y, 1, 0, values)
    return at.transpose(y, [0, 2, 3, 1])


def _padded(at: Before, x: ir.Value, axis: int, size: int) -> ir.Value:
    """`x` [., ., ., .] with zeros behind the `size` elements of an axis, up to a multiple of 16."""
    missing = -size % ALIGN
    if missing == 0:
        return x
    ends = np.zeros(2 * RANK, dtype=np.int64)
    ends[RANK + axis] = missing
    return at("Pad", x, ends, np.float32(0))
