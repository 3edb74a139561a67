"""What a rule of a target may ask of a node: its shapes, attributes, operands and types."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from export.linting.graph import Graph, optional_input, type_name
from export.linting.operators import (
    ALIASES,
    ALONG_LAST,
    CHOICES,
    FREE,
    PARAMETERS,
    PLAIN,
    attributes_of,
    defaults,
    kind_of,
    of_attributes,
    shown,
    yes_or_no,
)

ALIGN = 16  # channels of a computed kernel that MediaTek's accelerator takes are multiples of it
# Attribute of a Resize -> the other attribute, and its value, that it does something with.
WORKS_WITH = {
    "cubic_coeff_a": ("mode", "cubic"),
    "nearest_mode": ("mode", "nearest"),
    "extrapolation_value": ("coordinate_transformation_mode", "tf_crop_and_resize"),
}
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
NOT_KNOWN = 0  # of a type
Facts = dict[str, Any]


def facts_of(graph: Graph, node: onnx.NodeProto) -> Facts:
    """Everything that a condition may name.

    Args:
        graph: The graph of the node.
        node: The node.

    Returns:
        Fact -> value. `marks` are the keys that a rule has to cover (export/linting/rules.py).
    """
    op = node.op_type
    ranks = [len(graph.shape(name)) for name in graph.active(node)]
    given = attributes_of(node)
    attributes = _all_attributes(op, graph.opset, given)
    computed = of_attributes(op, given) | operand_facts(graph, node) | axis_facts(graph, node)
    for fact in FACTS.get(kind_of(op), ()):
        computed |= fact(graph, node)
    facts: Facts = {"op": op, "rank": max(ranks, default=0), **attributes, **computed}
    facts["marks"] = _marks(op, attributes, computed)
    return facts


def _all_attributes(op: str, opset: int, given: Facts) -> Facts:
    """A node's attributes and the defaults of others, in the words that rules have for them."""
    attributes = defaults(op, opset)
    attributes |= {name: shown(value) for name, value in given.items()}
    for name, older in ALIASES.get(op, {}).items():
        given_now: Any = attributes.get(name)
        attributes[name] = older.get(given_now, given_now)
    return attributes


def _marks(op: str, attributes: Facts, computed: Facts) -> list[str]:
    """The facts that a rule has to cover, each once."""
    free = FREE.get(kind_of(op), ())
    idle = _idle(op, attributes)
    marks: dict[str, None] = {}
    for name in attributes:
        if name not in free and name not in idle:
            marks[name] = None
    for name in computed:
        if name in PLAIN and name not in free:
            marks[name] = None
    return list(marks)


def _idle(op: str, attributes: Facts) -> list[str]:
    """Attributes of a Resize that do nothing in its mode, and so need no rule."""
    if op != "Resize":
        return []
    return [name for name, (key, value) in WORKS_WITH.items() if attributes.get(key) != value]


def operand_facts(graph: Graph, node: onnx.NodeProto) -> Facts:
    """What the inputs and outputs of any node are: constant or computed, of which type."""
    op = node.op_type
    facts: Facts = {}
    if len(node.input) > 1:
        fixed = [name in graph.fixed for name in node.input[:2]]
        facts["kernel"] = _constant_or_computed(fixed[1])
        facts["other"] = _constant_or_computed(any(fixed))
    if kind_of(op) in PARAMETERS:
        facts["parameters"] = _constant_or_computed(not graph.computed(node.input[1:]))
    maker = graph.producer.get(optional_input(node, 0))
    facts["of"] = "input" if maker is None else maker.op_type
    if op != "Split":
        facts["outputs"] = 1 + sum(1 for name in node.output[1:] if name)
    facts["inputs"] = max((place for place, name in enumerate(node.input, 1) if name), default=0)
    facts["type"] = _type(graph, node)
    return facts


def _constant_or_computed(constant: bool) -> str:
    return "constant" if constant else "computed"


def _type(graph: Graph, node: onnx.NodeProto) -> str:
    """float, or the first other type that the node computes with."""
    choices = CHOICES.get(node.op_type, ())
    numbers = [name for place, name in enumerate(node.input) if place not in choices]
    for name in graph.computed(numbers):
        kind = graph.types.get(name, NOT_KNOWN)
        if kind not in (*FLOATS, NOT_KNOWN):
            if node.op_type == "DequantizeLinear":
                return "float"
            return type_name(kind)
    return "float"


def axis_facts(graph: Graph, node: onnx.NodeProto) -> Facts:
    """The axis that an operator goes along: `last`, or its number."""
    axis = attributes_of(node).get("axis", -1 if node.op_type in ALONG_LAST else None)
    if axis is None:
        return {}
    rank = len(graph.shape(optional_input(node, 0)))
    if axis in (-1, rank - 1):
        return {"axis": "last"}
    return {"axis": axis % rank if rank else axis}


def reduction_facts(graph: Graph, node: onnx.NodeProto) -> Facts:
    """The axes that a reduction goes over, as 2x3; none where they are computed."""
    axes = attributes_of(node).get("axes")
    if len(node.input) > 1:
        axes = graph.integers(node.input[1])
    if axes is None:
        return {}
    rank = len(graph.shape(node.input[0]))
    return {"axes": "x".join(str(axis % rank) for axis in sorted(axes)) if rank else ""}


def slice_facts(graph: Graph, node: onnx.NodeProto) -> Facts:
    """The step of a Slice, or `several`."""
    steps: list[int] | None = [1]
    if optional_input(node, 4):
        steps = graph.integers(node.input[4])
    return {"step": steps[0] if steps and len(set(steps)) == 1 else "several"}


def spatial_facts(graph: Graph, node: onnx.NodeProto) -> Facts:
    """How many axes lie behind the channels."""
    return {"spatial": max(len(graph.shape(node.input[0])) - 2, 0)}


def convolution_facts(graph: Graph, node: onnx.NodeProto) -> Facts:
    """Groups, channels and sides of a convolution and its kernel."""
    x = graph.shape(node.input[0])
    kernel = graph.shape(node.input[1])
    channels = x[1] if len(x) > 1 else 0
    aligned = bool(kernel) and kernel[0] % ALIGN == 0 and kernel[1] % ALIGN == 0
    return {
        "groups": _groups(attributes_of(node).get("group", 1), channels),
        "channels": channels,
        "side": max(x[2:], default=0),
        "kernel_side": max(kernel[2:], default=0),
        "batch": "several" if x and x[0] > 1 else "one",
        "aligned": yes_or_no(aligned),
    }


def _groups(group: int, channels: int) -> str:
    if group == 1:
        return "one"
    return "depthwise" if group == channels else "several"


def resize_facts(graph: Graph, node: onnx.NodeProto) -> Facts:
    """How far a Resize goes: whole, fraction, down or mixed; over sides or channels too."""
    x = graph.shape(optional_input(node, 0))
    y = graph.shape(node.output[0])
    rank = len(x)
    axes = sorted(axis % rank for axis in attributes_of(node).get("axes", ())) if rank else []
    facts = {"axes": "all" if axes in ([], list(range(rank))) else "some"}
    if len(x) != len(y) or not all(x) or not all(y):
        return {"scale": "unknown", "resized": "unknown"} | facts
    pairs = zip(x[2:], y[2:], strict=True)
    kinds = {_scale(before, after) for before, after in pairs if before != after} or {"whole"}
    scale = kinds.pop() if len(kinds) == 1 else "mixed"
    return {"scale": scale, "resized": "sides" if x[:2] == y[:2] else "channels"} | facts


def _scale(before: int, after: int) -> str:
    if after < before:
        return "down"
    return "whole" if after % before == 0 else "fraction"


def padding_facts(graph: Graph, node: onnx.NodeProto) -> Facts:
    """Whether a Pad crops, and what it pads with."""
    pads = graph.integers(optional_input(node, 1))
    return {
        "pads": "negative" if pads and min(pads) < 0 else "plain",
        "value": _zero_or_other(graph, optional_input(node, 2)),
    }


def _zero_or_other(graph: Graph, name: str) -> str:
    """What a value is: zero (also where it is left out), other numbers, or computed."""
    if not name:
        return "zero"
    values = graph.dequantised(name)
    if values is None:
        return "computed"
    return "other" if np.any(values.astype(np.float32)) else "zero"


def quantiser_facts(graph: Graph, node: onnx.NodeProto) -> Facts:
    """The type of a quantiser's codes, and whether its zero points are zero."""
    coded = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
    zero_point = optional_input(node, 2)
    kind = graph.types.get(coded, NOT_KNOWN) or graph.types.get(zero_point, NOT_KNOWN)
    return {
        "codes": type_name(kind) if kind else "uint8",
        "zero_point": _zero_or_other(graph, zero_point),
    }


Fact = Callable[[Graph, onnx.NodeProto], Facts]
# Operator (`Reduce` for every reduction) -> what else rules ask of it.
FACTS: dict[str, tuple[Fact, ...]] = {
    "Reduce": (reduction_facts,),
    "Slice": (slice_facts,),
    "Conv": (spatial_facts, convolution_facts),
    "ConvTranspose": (spatial_facts, convolution_facts),
    "AveragePool": (spatial_facts,),
    "MaxPool": (spatial_facts,),
    "GlobalAveragePool": (spatial_facts,),
    "GlobalMaxPool": (spatial_facts,),
    "GridSample": (spatial_facts,),
    "Resize": (spatial_facts, resize_facts),
    "Pad": (padding_facts,),
    "QuantizeLinear": (quantiser_facts,),
    "DequantizeLinear": (quantiser_facts,),
}
