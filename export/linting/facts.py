"""What a rule of a target may ask of a node: its shapes, attributes, operands and types, of a
graph with inferred shapes."""

import math
import re

import numpy as np
import onnx
from onnx import TensorProto

from export.graphs.storage import inferred

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
}
REDUCED = ("keepdims", "noop_with_empty_axes")
# The second operands of these say where and how far; a target reads them when it compiles.
PARAMETERS = (
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
SPATIAL = (
    "Conv",
    "ConvTranspose",
    "AveragePool",
    "MaxPool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Resize",
    "GridSample",
)
POOLS = ("AveragePool", "MaxPool")
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
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
ALIASES = {"GridSample": {"mode": {"bilinear": "linear", "bicubic": "cubic"}}}


def shown(value: object) -> object:
    """An attribute's value as rules write it: lists as 2x2, bytes as text, numbers in float32."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def defaults(op: str, opset: int) -> dict[str, object]:
    """Attribute -> the value that it has where a node leaves it out; None where the operator has
    no such value."""
    try:
        schema = onnx.defs.get_schema(op, max_inclusive_version=opset)
    except onnx.defs.SchemaError:
        return {}
    found: dict[str, object] = dict.fromkeys(schema.attributes)
    for name, attribute in schema.attributes.items():
        if attribute.default_value.name:
            found[name] = shown(onnx.helper.get_attribute_value(attribute.default_value))
    if "output_padding" in found:
        found["output_padding"] = "0x0"
    return found


def of_attributes(op: str, given: dict[str, object]) -> dict[str, object]:
    """What rules ask of lists such as strides: strided, dilated, padded."""
    found: dict[str, object] = {}
    if op in ("Conv", "ConvTranspose", *POOLS):
        for name, key in (("strides", "strided"), ("dilations", "dilated")):
            found[key] = "yes" if max(given.get(name) or [1]) > 1 else "no"
    if op in POOLS:
        found["padded"] = "yes" if any(given.get("pads") or [0]) else "no"
    return found


def _numbers(value: onnx.ValueInfoProto) -> list[int | None]:
    """The sides of a value; None for one that is no number."""
    sides = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else None for d in sides]


def _written(value: onnx.ValueInfoProto) -> str:
    """The sides of a value for a reader: 1 x 3 x h x w."""
    names = [d.dim_param or "?" for d in value.type.tensor_type.shape.dim]
    pairs = zip(_numbers(value), names, strict=True)
    return " x ".join(name if side is None else str(side) for side, name in pairs)


class Graph:
    """An ONNX graph with inferred shapes, and the facts of its nodes that rules ask for.

    `open` are the values with a side that is no number; `given_open` whether an input of the
    graph has one.
    """

    def __init__(self, model: onnx.ModelProto):
        self.model = inferred(model)
        graph = self.model.graph
        self.opset = max(
            (o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1
        )
        self.constants = {i.name: i for i in graph.initializer}
        self.producer = {out: node for node in graph.node for out in node.output}
        values = [*graph.value_info, *graph.input, *graph.output]
        self.types = {v.name: v.type.tensor_type.elem_type for v in values}
        self.types |= {name: i.data_type for name, i in self.constants.items()}
        shaped = [
            v
            for v in values
            if v.type.tensor_type.HasField("shape") and v.name not in self.constants
        ]
        self.shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in shaped}
        self.open = {v.name for v in shaped if None in _numbers(v)}
        self.given_open = any(v.name in self.open for v in graph.input)
        self.sides = {v.name: _written(v) for v in shaped}
        self.shapes |= {name: list(i.dims) for name, i in self.constants.items()}
        self.fixed: set[str] = set(self.constants)
        for node in graph.node:
            if node.op_type not in RANDOM and all(
                not name or name in self.fixed for name in node.input
            ):
                self.fixed.update(node.output)

    def shape(self, name: str) -> list[int]:
        return self.shapes.get(name, [])

    def array(self, name: str) -> np.ndarray | None:
        """The values of a constant that is small enough to have been read, through Constant and
        Identity."""
        stored, node = self.constants.get(name), self.producer.get(name)
        if stored is not None and stored.data_location != TensorProto.EXTERNAL:
            return onnx.numpy_helper.to_array(stored)
        if node is not None and node.op_type == "Identity":
            return self.array(node.input[0])
        if node is not None and node.op_type == "Constant":
            value = onnx.helper.get_attribute_value(node.attribute[0])
            return (
                onnx.numpy_helper.to_array(value)
                if isinstance(value, TensorProto)
                else np.asarray(value)
            )
        return None

    def number(self, name: str) -> list[int] | None:
        """The integers of a constant."""
        found = self.array(name)
        return None if found is None else found.reshape(-1).tolist()

    def active(self, node: onnx.NodeProto) -> list[str]:
        """The inputs and outputs of a node that depend on the graph's input."""
        return [name for name in (*node.input, *node.output) if name and name not in self.fixed]

    def facts(self, node: onnx.NodeProto) -> dict[str, object]:
        """Everything that a condition may name; `marks` are the keys that a rule has to cover
        (export/linting/rules.py)."""
        op, ranks = node.op_type, [len(self.shape(name)) for name in self.active(node)]
        plain = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        found: dict[str, object] = {"op": op, "rank": max(ranks, default=0)} | defaults(
            op, self.opset
        )
        found |= {name: shown(value) for name, value in plain.items()}
        found = {
            key: ALIASES.get(op, {}).get(key, {}).get(value, value) for key, value in found.items()
        }
        free = (*REDUCED, "axes") if op.startswith("Reduce") else FREE.get(op, ())
        marks = [name for name in found if name not in ("op", "rank") and name not in free]
        computed = of_attributes(op, plain) | self._operands(node) | self._shapes(node)
        self._of_resize(op, found, marks)
        found |= computed
        seen = [*marks, *(key for key in computed if key in PLAIN and key not in free)]
        found["marks"] = list(dict.fromkeys(seen))
        return found

    def _of_resize(self, op: str, found: dict, marks: list[str]) -> None:
        """Attributes of a Resize that do nothing in its mode need no rule."""
        if op != "Resize":
            return
        crops = found.get("coordinate_transformation_mode") == "tf_crop_and_resize"
        idle = [] if found.get("mode") == "cubic" else ["cubic_coeff_a"]
        idle += [] if found.get("mode") == "nearest" else ["nearest_mode"]
        idle += [] if crops else ["extrapolation_value"]
        marks[:] = [name for name in marks if name not in idle]

    def _operands(self, node: onnx.NodeProto) -> dict[str, object]:
        op, found = node.op_type, {}
        if len(node.input) > 1:
            fixed = [name in self.fixed for name in node.input[:2]]
            found["kernel"] = "constant" if fixed[1] else "computed"
            found["other"] = "constant" if any(fixed) else "computed"
        if op in PARAMETERS or op.startswith("Reduce"):
            computed = any(name and name not in self.fixed for name in node.input[1:])
            found["parameters"] = "computed" if computed else "constant"
        maker = self.producer.get(node.input[0]) if node.input else None
        found["of"] = maker.op_type if maker is not None else "input"
        read = sum(1 for name in node.output[1:] if name) + 1
        if op != "Split":
            found["outputs"] = read
        found["inputs"] = max(
            (place + 1 for place, name in enumerate(node.input) if name), default=0
        )
        found["type"] = self._type(node)
        if op in QUANTISERS:
            found |= self._codes(node)
        return found

    def _type(self, node: onnx.NodeProto) -> str:
        """float, or the first other type that the node computes with."""
        for place, name in enumerate(node.input):
            if not name or name in self.fixed or place in CHOICES.get(node.op_type, ()):
                continue
            kind = self.types.get(name, 0)
            if kind not in (*FLOATS, 0):
                if node.op_type == "DequantizeLinear":
                    return "float"
                return TensorProto.DataType.Name(kind).lower()
        return "float"

    def _codes(self, node: onnx.NodeProto) -> dict[str, object]:
        """Of a quantiser: the type of its codes, and whether its zero points are zero."""
        coded = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        kind, zero = self.types.get(coded, 0), "zero"
        if len(node.input) > 2 and node.input[2]:
            stored = self.array(node.input[2])
            kind = kind or self.types.get(node.input[2], 0)
            zero = (
                "computed"
                if stored is None
                else "other"
                if np.any(stored.astype(np.float32))
                else "zero"
            )
        return {
            "codes": TensorProto.DataType.Name(kind).lower() if kind else "uint8",
            "zero_point": zero,
        }

    def _shapes(self, node: onnx.NodeProto) -> dict[str, object]:
        """Facts that lie in shapes and stored integers."""
        op, found = node.op_type, {}
        x, y = self.shape(node.input[0]) if node.input else [], self.shape(node.output[0])
        rank = len(x)
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if "axis" in given or op in (
            "Softmax",
            "LogSoftmax",
            "LayerNormalization",
            "RMSNormalization",
        ):
            axis = int(given.get("axis", -1))
            found["axis"] = "last" if axis in (-1, rank - 1) else axis % rank if rank else axis
        axes = (
            self.number(node.input[1])
            if op.startswith("Reduce") and len(node.input) > 1
            else given.get("axes")
        )
        if op.startswith("Reduce") and axes is not None:
            found["axes"] = "x".join(str(a % rank) for a in sorted(axes)) if rank else ""
        if op == "Slice":
            steps = self.number(node.input[4]) if len(node.input) > 4 and node.input[4] else [1]
            found["step"] = steps[0] if steps and len(set(steps)) == 1 else "several"
        if op in SPATIAL:
            found["spatial"] = max(rank - 2, 0)
        if op in ("Conv", "ConvTranspose"):
            found |= self._convolution(node, given)
        if op == "Resize":
            axes = sorted(axis % rank for axis in given.get("axes", ())) if rank else []
            found |= _factors(x, y) | {"axes": "all" if axes in ([], list(range(rank))) else "some"}
        if op == "Pad":
            found |= self._padding(node)
        return found

    def _padding(self, node: onnx.NodeProto) -> dict[str, object]:
        pads = self.number(node.input[1]) if len(node.input) > 1 else []
        value = self.array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(())
        return {
            "pads": "negative" if pads and min(pads) < 0 else "plain",
            "value": "computed" if value is None else "other" if np.any(value) else "zero",
        }

    def _convolution(self, node: onnx.NodeProto, given: dict) -> dict[str, object]:
        x, kernel = self.shape(node.input[0]), self.shape(node.input[1])
        group, channels = given.get("group", 1), x[1] if len(x) > 1 else 0
        return {
            "groups": "one" if group == 1 else "depthwise" if group == channels else "several",
            "channels": channels,
            "side": max(x[2:], default=0),
            "kernel_side": max(kernel[2:], default=0),
            "batch": "several" if x and x[0] > 1 else "one",
            "aligned": "yes" if kernel and kernel[0] % 16 == 0 and kernel[1] % 16 == 0 else "no",
        }

    def precision(self, node: onnx.NodeProto, float_type: str) -> str:
        """The column of the probe that a node runs in: `fp16`, `fp32`, or a8w8, a16w8pc and so
        on; another name, which no table has, for codes that the probe has no column of (signed
        activations, float8)."""
        acts, weights, per_channel = set(), set(), False
        for name in node.input:
            made = self.producer.get(name)
            if made is None or made.op_type != "DequantizeLinear":
                if name and name not in self.fixed and self.types.get(name) == TensorProto.FLOAT:
                    return float_type
                continue
            kind = TensorProto.DataType.Name(self.types.get(made.input[0], 0)).lower()
            if name in self.fixed:
                weights.add(kind)
                per_channel |= math.prod(self.shape(made.input[1]) or [1]) > 1
            else:
                acts.add(kind)
        if not acts:
            return float_type
        if not all(re.fullmatch(r"uint(8|16)", kind) for kind in acts):
            return f"{'/'.join(sorted(acts))} activations"
        stored = [_bits(kind) for kind in weights if kind != "int32"]
        if None in stored:
            return f"{'/'.join(sorted(weights))} weights"
        widths = f"a{max(_bits(kind) for kind in acts)}w{min(stored, default=8)}"
        return f"{widths}pc" if per_channel else widths


def _bits(kind: str) -> int | None:
    """Of an integer type's name."""
    match = re.fullmatch(r"u?int(\d+)", kind)
    return int(match[1]) if match else None


def _factors(x: list[int], y: list[int]) -> dict[str, object]:
    """How far a Resize from shape `x` to `y` goes: `scale` whole, fraction, down or mixed;
    `resized` sides or channels."""
    if len(x) != len(y) or not all(x) or not all(y):
        return {"scale": "unknown", "resized": "unknown"}
    kinds = set()
    for before, after in zip(x[2:], y[2:], strict=True):
        if before != after:
            kinds.add("down" if after < before else "whole" if after % before == 0 else "fraction")
    return {
        "scale": kinds.pop() if len(kinds) == 1 else "mixed" if kinds else "whole",
        "resized": "sides" if x[:2] == y[:2] else "channels",
    }
