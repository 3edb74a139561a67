"""The precision that a node runs in, as the probe names it."""

import math
import re

import onnx
from onnx import TensorProto

from export.linting.graph import Graph, type_name

ACTIVATIONS = re.compile(r"uint(8|16)")  # codes of activations that the probe has columns of
INTEGERS = re.compile(r"u?int(\d+)")
BIAS = "int32"
DEFAULT_BITS = 8  # of weights where a node has none


def precision_of(graph: Graph, node: onnx.NodeProto, float_type: str) -> str:
    """The column of the probe that a node runs in.

    Args:
        graph: The graph of the node.
        node: The node.
        float_type: What the target computes floats in: `fp16` or `fp32`.

    Returns:
        `float_type`, or a8w8, a16w8pc and so on. Another name, which no table has, for codes that
        the probe has no column of (signed activations, float8).
    """
    activations = set()
    weights = set()
    per_channel = False
    for name in node.input:
        made = graph.producer.get(name)
        if made is None or made.op_type != "DequantizeLinear":
            if graph.computed([name]) and graph.types.get(name) == TensorProto.FLOAT:
                return float_type
            continue
        kind = type_name(graph.types.get(made.input[0], 0))
        if name in graph.fixed:
            weights.add(kind)
            per_channel |= math.prod(graph.shape(made.input[1]) or [1]) > 1
        else:
            activations.add(kind)
    if not activations:
        return float_type
    return _column(activations, weights, per_channel)


def _column(activations: set[str], weights: set[str], per_channel: bool) -> str:
    """The name of a column, or one that no table has."""
    if not all(ACTIVATIONS.fullmatch(kind) for kind in activations):
        return f"{'/'.join(sorted(activations))} activations"
    stored = [INTEGERS.fullmatch(kind) for kind in weights if kind != BIAS]
    widths = [int(match[1]) for match in stored if match is not None]
    if len(widths) < len(stored):
        return f"{'/'.join(sorted(weights))} weights"
    wide = "a16" if "uint16" in activations else "a8"
    column = f"{wide}w{min(widths, default=DEFAULT_BITS)}"
    return f"{column}pc" if per_channel else column
