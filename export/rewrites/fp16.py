"""Keep float16 from overflowing: powers of two taken out of weights (rewrite `rescale`).

GroupNorm, InstanceNorm and LayerNorm do not see the scale of what comes in: N_eps(x / s) with
eps / s^2 is N_eps(x). A stream is a residual sum with all that feeds and reads it. It may shrink
by s where every producer is a convolution, which takes 1 / s into weights and bias, and every
reader one of those norms, or a convolution, which takes s into its weights. s is a power of two, so
that no digit changes.
"""

import math
from collections import defaultdict

import numpy as np
import onnx_ir as ir

from export.graphs.edit import (
    array,
    attribute,
    constant,
    infer,
    numbers,
    operand,
    operands,
    optional_operand,
    scalar,
)
from export.graphs.maxima import absolute_maxima
from export.rewrites.options import DEFAULTS, Options

PASSING = (
    "Add",
    "Sub",
    "Reshape",
    "Transpose",
    "Concat",
    "Resize",
    "Pad",
    "Slice",
    "Split",
    "DepthToSpace",
    "Identity",
    "Squeeze",
    "Unsqueeze",
)
SUMS = ("Add", "Sub", "Concat")  # all of their inputs belong to the stream
NORMS = ("InstanceNormalization", "LayerNormalization")
LINEAR_MODES = ("nearest", "linear", "cubic")  # of Resize
EPSILON = 1e-5  # of a norm that leaves it out


class _Streams:
    """Tensors that must shrink together (union-find)."""

    def __init__(self) -> None:
        self.parent: dict[ir.Value, ir.Value] = {}

    def find(self, value: ir.Value) -> ir.Value:
        self.parent.setdefault(value, value)
        while self.parent[value] is not value:
            value = self.parent[value]
        return value

    def join(self, values: list[ir.Value]) -> None:
        roots = [self.find(value) for value in values]
        for root in roots[1:]:
            self.parent[root] = roots[0]


def rescale(model: ir.Model, options: Options = DEFAULTS) -> int:
    """Shrink every stream that exceeds a magnitude.

    Streams of quantised tensors are left alone: their range is in their scale.

    Args:
        model: A graph of static shapes; it is changed in place.
        options: `feeds` is what the graph is run on, and without it nothing happens; `limit` is the
            magnitude.

    Returns:
        How many streams shrank.
    """
    if not options.feeds:
        return 0
    infer(model)
    maxima = absolute_maxima(model, options.feeds)
    changed = 0
    for stream in _streams(model.graph):
        largest = max((maxima.get(value.name or "", 0.0) for value in stream), default=0.0)
        too_large = options.limit < largest < math.inf
        if too_large and _is_free(stream):
            _shrink(model.graph, stream, 2.0 ** math.ceil(math.log2(largest / options.limit)))
            changed += 1
    return changed


def _streams(graph: ir.Graph) -> list[list[ir.Value]]:
    """Every value of a graph, with those that must shrink together in one list."""
    streams = _Streams()
    values = list(graph.inputs)
    for node in graph:
        values += node.outputs
        if node.op_type in PASSING and not node.domain:
            sources = operands(node) if node.op_type in SUMS else [operand(node, 0)]
            streams.join([*sources, *node.outputs])
    members = defaultdict(list)
    for value in {*values, *streams.parent}:
        members[streams.find(value)].append(value)
    return list(members.values())


def _is_free(stream: list[ir.Value]) -> bool:
    """Whether only convolutions make the stream, and only convolutions and norms read it."""
    inside = set(stream)
    for value in stream:
        if value.is_graph_output() or not _may_be_made(value):
            return False
        for use in value.uses():
            within = any(out in inside for out in use.node.outputs)
            if within and not _is_linear_resize(use.node):
                return False
            if not within and not _may_read(use.node, use.idx):
                return False
    return True


def _may_be_made(value: ir.Value) -> bool:
    """Whether a value is a constant, of a plain convolution, or passed on."""
    node = value.producer()
    if node is None:
        return array(value) is not None
    if node.op_type == "Pad" and scalar(optional_operand(node, 2)) not in (None, 0):
        return False
    return node.op_type in PASSING or _is_plain_conv(node)


def _is_linear_resize(node: ir.Node) -> bool:
    """Whether a node is no Resize, or one that commutes with a factor."""
    return node.op_type != "Resize" or attribute(node, "mode", "nearest") in LINEAR_MODES


def _may_read(node: ir.Node, index: int) -> bool:
    """Whether an input of a node may shrink without its output."""
    return index == 0 and (node.op_type in NORMS or _is_plain_conv(node))


def _is_plain_conv(node: ir.Node) -> bool:
    """Whether a node is a convolution by constants in floating point."""
    stored = all(array(value) is not None for value in operands(node)[1:])
    return node.op_type == "Conv" and stored


def _shrink(graph: ir.Graph, stream: list[ir.Value], by: float) -> None:
    """Divide the values of a stream by a power of two."""
    inside = set(stream)
    norms: set[ir.Node] = set()
    convs: set[ir.Node] = set()
    for value in stream:
        if array(value) is not None:
            _shrink_constant(graph, value, inside, by)
            continue
        neighbours = [use.node for use in value.uses()]
        made = value.producer()
        if made is not None:
            neighbours.append(made)
        norms.update(node for node in neighbours if node.op_type in NORMS)
        convs.update(node for node in neighbours if node.op_type == "Conv")
    for node in norms:
        epsilon = attribute(node, "epsilon", EPSILON) / by**2
        node.attributes["epsilon"] = ir.AttrFloat32("epsilon", epsilon)
    for node in convs:
        _shrink_weights(graph, node, inside, by)


def _shrink_constant(graph: ir.Graph, value: ir.Value, inside: set[ir.Value], by: float) -> None:
    """Give the nodes of the stream that read a constant a smaller one."""
    uses = [use for use in value.uses() if any(out in inside for out in use.node.outputs)]
    smaller = constant(graph, (numbers(value) / by).astype(np.float32), "scaled")
    for use in uses:
        use.node.replace_input_with(use.idx, smaller)


def _shrink_weights(graph: ir.Graph, node: ir.Node, inside: set[ir.Value], by: float) -> None:
    """Let a convolution take the factor, on the sides of it that belong to the stream."""
    factor = by if operand(node, 0) in inside else 1.0
    makes = node.outputs[0] in inside
    if makes:
        factor /= by
    if factor != 1:
        weight = (numbers(node.inputs[1]) * factor).astype(np.float32)
        node.replace_input_with(1, constant(graph, weight, "scaled"))
    bias = optional_operand(node, 2)
    if makes and bias is not None:
        smaller = (numbers(bias) / by).astype(np.float32)
        node.replace_input_with(2, constant(graph, smaller, "scaled"))
