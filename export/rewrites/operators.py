"""Operators that a runtime lacks, or computes badly, by others: one function each."""

import math

import numpy as np
import onnx_ir as ir
from onnx import TypeProto, helper
from onnx.reference import ReferenceEvaluator

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
)

LOOKS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity")
STORED = ("DequantizeLinear", "QuantizeLinear")
MASK = -100.0  # exp(-100) is 0 beside any other score, also where float16 or 8 bits hold it
FOLDED = 2**22  # elements; a larger result costs more than it saves


def fold_constants(model: ir.Model, options: Options = Options()) -> int:
    """Compute what depends on no input: a time embedding of a fixed step, keys of a fixed prompt.

    Weights that are stored as integers stay so: neither their DequantizeLinear nor its reshapes are folded.
    """
    known: dict[ir.Value, np.ndarray | None] = {}

    def compute(value: ir.Value | None) -> np.ndarray | None:
        if value is None or array(value) is not None:
            return array(value)
        node = value.producer()
        if node is None or node.domain:
            return None
        if value not in known:
            inputs = [compute(v) for v in node.inputs]
            whole = all(
                given is None or found is not None
                for given, found in zip(node.inputs, inputs, strict=True)
            )
            results = (
                _evaluate(node, inputs, model.graph.opset_imports[""])
                if whole
                else [None] * len(node.outputs)
            )
            known.update(zip(node.outputs, results, strict=True))
        return known[value]

    folded = 0
    for node in list(model.graph):
        if node.domain or node.op_type in STORED or not node.inputs or _of_codes(node):
            continue
        if any(v is not None and v.producer() is None and array(v) is None for v in node.inputs):
            continue
        values = [compute(v) for v in node.outputs]
        if any(v is None or v.size > FOLDED for v in values):
            continue
        for old, new in zip(node.outputs, values, strict=True):
            if not old.is_graph_output():
                ir.convenience.replace_all_uses_with(old, constant(model.graph, new, "folded"))
                folded += 1
    clean(model)
    return folded


def _of_codes(node: ir.Node) -> bool:
    """Whether a node only moves a weight that is stored as integers."""
    while node is not None and node.op_type in LOOKS:
        node = node.inputs[0].producer()
        if node is not None and node.op_type in STORED:
            return True
    return False


def _evaluate(node: ir.Node, inputs: list[np.ndarray | None], opset: int) -> list[np.ndarray]:
    names = [f"i{k}" if v is not None else "" for k, v in enumerate(inputs)]
    outputs = [f"o{k}" for k in range(len(node.outputs))]
    proto = ir.serde.serialize_node(node)
    del proto.input[:], proto.output[:]
    proto.input.extend(names)
    proto.output.extend(outputs)
    graph = helper.make_graph(
        [proto],
        "fold",
        [helper.make_value_info(n, TypeProto()) for n in names if n],
        [helper.make_value_info(n, TypeProto()) for n in outputs],
    )
    evaluator = ReferenceEvaluator(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    )
    return evaluator.run(
        None, {name: value for name, value in zip(names, inputs, strict=True) if name}
    )


def silu(model: ir.Model, options: Options = Options()) -> int:
    """Swish(x) -> x * Sigmoid(alpha * x)."""
    found = [node for node in model.graph if node.op_type == "Swish"]
    for node in found:
        at, x, alpha = Before(model.graph, node), node.inputs[0], attribute(node, "alpha", 1.0)
        gate = at("Sigmoid", x if alpha == 1 else at("Mul", x, alpha))
        at.replace(node.outputs[0], at("Mul", x, gate))
    clean(model)
    return len(found)


def gelu(model: ir.Model, options: Options = Options()) -> int:
    """x / 2 * (1 + Erf(x / sqrt(2))) -> Gelu(x), from opset 20 on. No NPU here has Erf."""
    if model.graph.opset_imports[""] < 20:
        return 0
    count = 0
    for node in [n for n in model.graph if n.op_type == "Erf"]:
        inner = node.inputs[0].producer()
        by = None if inner is None else scalar(inner.inputs[1])
        if by is None or inner.op_type not in ("Mul", "Div"):
            continue
        x = inner.inputs[0]
        if not math.isclose(by if inner.op_type == "Mul" else 1 / by, math.sqrt(0.5), rel_tol=1e-4):
            continue
        end = _gelu_end(node, x)
        if end is not None:
            at = Before(model.graph, end)
            at.replace(end.outputs[0], at("Gelu", x, approximate="none"))
            count += 1
    clean(model)
    return count


def _gelu_end(erf: ir.Node, x: ir.Value) -> ir.Node | None:
    """The last product of (Erf(...) + 1) with x and one half, in any order."""
    users = erf.outputs[0].consumers()
    add = users[0] if len(users) == 1 and users[0].op_type == "Add" else None
    if add is None or not any(scalar(v) == 1 for v in add.inputs):
        return None
    value, half, times_x = add.outputs[0], False, False
    while len(users := value.consumers()) == 1 and users[0].op_type == "Mul":
        node = users[0]
        other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
        made = other.producer()
        if scalar(other) == 0.5:
            half = True
        elif other is x:
            times_x = True
        elif (
            made is not None
            and made.op_type == "Mul"
            and x in made.inputs
            and any(scalar(v) == 0.5 for v in made.inputs)
        ):
            half = times_x = True
        else:
            return None
        if half and times_x:
            return node
        value = node.outputs[0]
    return None


def resize_nearest(model: ir.Model, options: Options = Options()) -> int:
    """Nearest enlargement by whole factors with half-pixel coordinates -> asymmetric and floor: the same pixels.

    The Hexagon compiler reads the half-pixel form as another one and shifts the picture.
    """
    if not any(node.op_type == "Resize" for node in model.graph):
        return 0
    infer(model)
    count = 0
    for node in model.graph:
        mode = attribute(node, "coordinate_transformation_mode", "half_pixel")
        if (
            node.op_type != "Resize"
            or attribute(node, "mode", "nearest") != "nearest"
            or mode != "half_pixel"
        ):
            continue
        factors = [
            b / a for a, b in zip(shape(node.inputs[0]), shape(node.outputs[0]), strict=True)
        ]
        if all(f.is_integer() for f in factors) and attribute(node, "nearest_mode", "") in (
            "",
            "round_prefer_floor",
        ):
            node.attributes["coordinate_transformation_mode"] = ir.AttrString(
                "coordinate_transformation_mode", "asymmetric"
            )
            node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", "floor")
            count += 1
    return count


def edge_padding(model: ir.Model, options: Options = Options()) -> int:
    """Padding that repeats the border -> the border's rows and columns, concatenated. (The Hexagon simulator answers
    the padding with NaN in float16; MediaTek has none.)"""
    found = [
        node
        for node in model.graph
        if node.op_type == "Pad" and attribute(node, "mode", "constant") == "edge"
    ]
    if found:
        infer(model)
    count = 0
    for node in found:
        ends, sides = array(node.inputs[1]), shape(node.inputs[0])
        if ends is None or (ends < 0).any() or ends.size != 2 * len(sides):
            continue
        at, x = Before(model.graph, node), node.inputs[0]
        for axis, (first, last) in enumerate(
            zip(ends[: len(sides)], ends[len(sides) :], strict=True)
        ):
            if first or last:
                parts = [at.slice(x, axis, 0, 1)] * int(first) + [x]
                parts += [at.slice(x, axis, sides[axis] - 1, sides[axis])] * int(last)
                x = at("Concat", *parts, axis=axis)
        at.replace(node.outputs[0], x)
        count += 1
    clean(model)
    return count


def finite_masks(model: ir.Model, options: Options = Options()) -> int:
    """Constants of -inf, or below -10000, that mask attention scores -> -100."""
    count = 0
    for value in list(model.graph.initializers.values()):
        values = array(value)
        if values.dtype not in (np.float32, np.float16) or not (values < -1e4).any():
            continue
        if any(node.op_type not in ("Add", "Where", "Clip", "Max") for node in value.consumers()):
            continue
        new = constant(
            model.graph, np.where(values < -1e4, MASK, values).astype(values.dtype), "mask"
        )
        ir.convenience.replace_all_uses_with(value, new)
        count += 1
    clean(model)
    return count


def division(model: ir.Model, options: Options = Options()) -> int:
    """x / constant -> product; x / Sqrt(y) -> x * Rsqrt(y), which ONNX writes Reciprocal(Sqrt(y)); any other
    x / y -> x * y * Rsqrt(y^2)^2; Pow(x, 2) -> x * x."""
    count = 0
    for node in list(model.graph):
        at = Before(model.graph, node)
        if node.op_type == "Pow" and scalar(node.inputs[1]) == 2:
            new = at("Mul", node.inputs[0], node.inputs[0])
        elif node.op_type == "Div":
            x, y = node.inputs
            made = y.producer()
            if array(y) is not None:
                new = at("Mul", x, (1 / array(y).astype(np.float64)).astype(np.float32))
            elif made is not None and made.op_type == "Sqrt":
                new = at("Mul", x, at("Reciprocal", y))
            else:
                root = at("Reciprocal", at("Sqrt", at("Mul", y, y)))
                new = at("Mul", at("Mul", at("Mul", x, root), y), root)
        else:
            continue
        at.replace(node.outputs[0], new)
        count += 1
    clean(model)
    return count


def selection(model: ir.Model, options: Options = Options()) -> int:
    """Where(Less(a, b), x, y) -> y + m * (x - y) with m = Cast(Greater(b, a)): exact for finite x and y of one size."""
    count = 0
    for node in [n for n in model.graph if n.op_type == "Where"]:
        compare = node.inputs[0].producer()
        if compare is None or compare.op_type not in ("Less", "Greater"):
            continue
        at = Before(model.graph, node)
        a, b = compare.inputs if compare.op_type == "Greater" else compare.inputs[::-1]
        mask = at("Cast", at("Greater", a, b), to=ir.DataType.FLOAT)
        # Not y + m * (x - y), whose y would survive in the last digits.
        rest = at("Sub", 1.0, mask)
        new = at("Add", at("Mul", mask, node.inputs[1]), at("Mul", rest, node.inputs[2]))
        at.replace(node.outputs[0], new)
        count += 1
    clean(model)
    return count


def pixel_shuffle(model: ir.Model, options: Options = Options()) -> int:
    """Reshape, Transpose with six axes, Reshape: PixelShuffle -> DepthToSpace; PixelUnshuffle -> a fixed convolution.

    ONNX's SpaceToDepth orders channels otherwise than torch does, so that it would need another shuffle.
    """
    if not any(len(attribute(n, "perm", ())) == 6 for n in model.graph if n.op_type == "Transpose"):
        return 0
    infer(model)
    count = 0
    for node in [n for n in model.graph if n.op_type == "Transpose"]:
        before, after = node.inputs[0].producer(), (node.outputs[0].consumers() or [None])[0]
        if not (
            before is not None
            and after is not None
            and before.op_type == after.op_type == "Reshape"
        ):
            continue
        if len(node.outputs[0].uses()) != 1:
            continue
        x, y, sides, perm = (
            before.inputs[0],
            after.outputs[0],
            shape(node.inputs[0]),
            list(attribute(node, "perm")),
        )
        at = Before(model.graph, node)
        if (
            perm == [0, 1, 4, 2, 5, 3]
            and len(shape(x)) == len(shape(y)) == 4
            and sides[2] == sides[3]
        ):
            new = at("DepthToSpace", x, blocksize=sides[2], mode="CRD")
        elif (
            perm == [0, 1, 3, 5, 2, 4]
            and len(shape(x)) == len(shape(y)) == 4
            and sides[3] == sides[5]
        ):
            new = at(
                "Conv",
                x,
                unshuffle_kernel(sides[1], sides[3]),
                kernel_shape=[sides[3]] * 2,
                strides=[sides[3]] * 2,
            )
        else:
            continue
        at.replace(y, new)
        count += 1
    clean(model)
    return count


def unshuffle_kernel(channels: int, factor: int) -> np.ndarray:
    """float32 [C * f^2, C, f, f] of ones and zeros: channel c, row i, column j -> channel (c * f + i) * f + j."""
    outputs = channels * factor**2
    kernel = np.zeros((outputs, channels, factor, factor), np.float32)
    for out in range(outputs):
        channel, place = divmod(out, factor**2)
        kernel[out, channel, place // factor, place % factor] = 1
    return kernel
