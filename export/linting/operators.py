"""What the lint knows of ONNX operators: attributes, their defaults, and which of them matter."""

from typing import Any

import onnx

# Operators whose attribute is the same to every target: a size or an axis that its kernels take as
# a parameter, or a number. Facts such as `strided` say what of them matters. The value of every
# other attribute has to be in a rule.
POOLED = ("kernel_shape", "pads", "strides", "dilations")
FREE = {
    "Conv": (*POOLED, "group"),
    "ConvTranspose": (*POOLED, "group"),
    "AveragePool": POOLED,
    "MaxPool": POOLED,
    "BatchNormalization": ("epsilon", "momentum"),
    "InstanceNormalization": ("epsilon",),
    "GroupNormalization": ("epsilon", "num_groups"),
    "LayerNormalization": ("epsilon", "axis"),
    "RMSNormalization": ("epsilon", "axis"),
    "Softmax": ("axis",),
    "LogSoftmax": ("axis",),
    "LeakyRelu": ("alpha",),
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Concat": ("axis",),
    "Split": ("axis", "num_outputs"),
    "Gather": ("axis",),
    "Transpose": ("perm",),
    "Reshape": ("allowzero",),
    "DepthToSpace": ("blocksize",),
    "SpaceToDepth": ("blocksize",),
    "ArgMax": ("axis", "keepdims"),
    "ArgMin": ("axis", "keepdims"),
    "Cast": ("saturate", "round_mode"),
    "Flatten": ("axis",),
    "Constant": ("value",),
    "QuantizeLinear": ("axis", "saturate"),
    "DequantizeLinear": ("axis",),
    "Reduce": ("keepdims", "noop_with_empty_axes", "axes"),
}
# The second operands of these say where and how far; a target reads them when it compiles.
PARAMETERS = (
    "Reduce",
    "Reshape",
    "Expand",
    "Tile",
    "Slice",
    "Pad",
    "Resize",
    "Split",
    "Squeeze",
    "Unsqueeze",
    "Gather",
    "TopK",
    "Clip",
    "InstanceNormalization",
    "GroupNormalization",
    "LayerNormalization",
    "RMSNormalization",
    "BatchNormalization",
    "PRelu",
    "CumSum",
)
# Inputs that are indices or choices and not numbers to compute with.
CHOICES = {
    "Where": (0,),
    "Gather": (1,),
    "GatherElements": (1,),
    "GatherND": (1,),
    "ScatterND": (1,),
    "Cast": (0,),
    "And": (0, 1),
    "Or": (0, 1),
    "Not": (0,),
    "Xor": (0, 1),
}
CONVOLUTIONS = ("Conv", "ConvTranspose")
POOLS = ("AveragePool", "MaxPool")
# Operators that go along the last axis where they name none.
ALONG_LAST = ("Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization")
# What a form of the probe, or a row of a table, covers of the computed facts unless it names them.
PLAIN = {
    "strided": "no",
    "dilated": "no",
    "groups": "one",
    "padded": "no",
    "spatial": 2,
    "batch": "one",
    "scale": "whole",
    "resized": "sides",
    "parameters": "constant",
    "value": "zero",
    "outputs": 1,
    "pads": "plain",
    "axes": "all",
}
RANDOM = (
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
)
QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
# Operator -> attribute -> older name of a value -> the name that rules use.
ALIASES = {"GridSample": {"mode": {"bilinear": "linear", "bicubic": "cubic"}}}


def kind_of(op: str) -> str:
    """The key of an operator in these tables: all reductions are `Reduce`."""
    return "Reduce" if op.startswith("Reduce") else op


def shown(value: Any) -> Any:
    """An attribute's value as rules write it: lists as 2x2, bytes as text, numbers in float32."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list | tuple):
        return "x".join(map(str, value))
    return value


def defaults(op: str, opset: int) -> dict[str, Any]:
    """Attribute -> its value where a node leaves it out; None where the operator has no such."""
    try:
        schema = onnx.defs.get_schema(op, max_inclusive_version=opset)
    except onnx.defs.SchemaError:
        return {}
    values: dict[str, Any] = dict.fromkeys(schema.attributes)
    for name, attribute in schema.attributes.items():
        if attribute.default_value.name:
            values[name] = shown(onnx.helper.get_attribute_value(attribute.default_value))
    if "output_padding" in values:
        values["output_padding"] = "0x0"
    return values


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes that a node gives."""
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def yes_or_no(holds: bool) -> str:
    """A fact that holds or not, as rules write it."""
    return "yes" if holds else "no"


def of_attributes(op: str, given: dict[str, Any]) -> dict[str, Any]:
    """What rules ask of lists such as strides: strided, dilated, padded."""
    facts = {}
    if op in (*CONVOLUTIONS, *POOLS):
        facts["strided"] = yes_or_no(max(given.get("strides") or [1]) > 1)
        facts["dilated"] = yes_or_no(max(given.get("dilations") or [1]) > 1)
    if op in POOLS:
        facts["padded"] = yes_or_no(any(given.get("pads") or [0]))
    return facts
