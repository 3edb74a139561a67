"""Weights of one or two bits and float16 numbers in an ONNX file, by operators of our own.

Each is a model-local function. It is opaque to the exporter's constant folding, which would write
the float32 weight instead. A runtime inlines it when it loads the file. onnxruntime then folds it
in memory unless a session disables its "ConstantFolding".
"""

from collections.abc import Callable, Iterator
from itertools import count, product
from string import ascii_letters
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.defs import OpSchema
from onnxscript import values

import compress.binary.packed  # noqa: F401  importing this registers the operators
from export.graphs.edit import clean, initializer, nodes_of, numbers

DOMAIN = "compress"
NARROW_LEAST = 256  # integers; for fewer a node more is not worth its bytes
# Attributes at the default that every operator with an attribute of that name has.
DEFAULTS = {
    "auto_pad": "NOTSET",
    "group": 1,
    "dilations": (1, 1),
    "strides": (1, 1),
    "pads": (0, 0, 0, 0),
    "allowzero": 0,
    "transA": 0,
    "reduction": "none",
}
BITS = {"UnpackBits": 1, "UnpackTrits": 2}
# What a file may hold instead of bytes that a function unpacks: integers that DequantizeLinear
# takes by itself, with the first opset that knows them. They are larger, and need no function.
INTEGERS = {"int2": (ir.DataType.INT2, 25), "int4": (ir.DataType.INT4, 21)}


def lookup(bits: int) -> np.ndarray:
    """int8 [256, 8 / bits]: the values in a byte, the lowest bits first."""
    codes = (np.arange(256)[:, None] >> np.arange(0, 8, bits)) & (2**bits - 1)
    return (codes * 2 - 1 if bits == 1 else codes - 1).astype(np.int8)


def _unpack(name: str, opset: int) -> onnx.FunctionProto:
    def constant(result: str, array: np.ndarray) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [result], value=numpy_helper.from_array(array))

    nodes = [
        constant("table", lookup(BITS[name])),
        constant("minus_one", np.array([-1])),
        constant("zero", np.array([0])),
        helper.make_node("Cast", ["packed"], ["index"], to=TensorProto.INT32),
        helper.make_node("Gather", ["table", "index"], ["bytes"]),
        helper.make_node("Reshape", ["bytes", "minus_one"], ["padded"]),
        helper.make_node("ReduceProd", ["shape"], ["count"], keepdims=1),
        helper.make_node("Slice", ["padded", "zero", "count"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["signs"]),
        helper.make_node("Cast", ["signs"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["scale"], ["alpha"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["values", "alpha"], ["weight"]),
    ]
    return helper.make_function(
        DOMAIN,
        name,
        ["packed", "scale", "shape"],
        ["weight"],
        nodes,
        [helper.make_opsetid("", opset)],
    )


def _widen(name: str, opset: int) -> onnx.FunctionProto:
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    return helper.make_function(DOMAIN, name, ["x"], ["y"], nodes, [helper.make_opsetid("", opset)])


def _expand(name: str, opset: int) -> onnx.FunctionProto:
    nodes = [
        helper.make_node("ReduceProd", ["shape"], ["count"], keepdims=1),
        helper.make_node("ConstantOfShape", ["count"], ["zeros"]),
        helper.make_node("Cast", ["index"], ["positions"], to=TensorProto.INT64),
        helper.make_node("Cast", ["entries"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ScatterElements", ["zeros", "positions", "values"], ["flat"], axis=0),
        helper.make_node("Reshape", ["flat", "shape"], ["weight"]),
    ]
    return helper.make_function(
        DOMAIN,
        name,
        ["entries", "index", "shape"],
        ["weight"],
        nodes,
        [helper.make_opsetid("", opset)],
    )


FUNCTIONS = {"UnpackBits": _unpack, "UnpackTrits": _unpack, "Widen": _widen, "Expand": _expand}


def add_functions(model: ir.Model) -> None:
    """Give a model the functions that its graph calls, written in its own opset."""
    used = {node.op_type for node in model.graph if node.domain == DOMAIN}
    for name in sorted(used):
        function = ir.serde.deserialize_function(
            FUNCTIONS[name](name, model.graph.opset_imports[""])
        )
        model.functions[function.identifier()] = function
    if used:
        model.graph.opset_imports[DOMAIN] = 1
        narrow(model.graph)
        shorten(model.graph)


def narrow(graph: ir.Graph) -> None:
    """Store whole numbers, such as positions, in as few bytes as they need.

    A Cast or a function widens them again.
    """
    for name, value in list(graph.initializers.items()):
        if value.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
            continue
        integers = numbers(value)
        small = _narrowest(integers)
        if integers.size >= NARROW_LEAST and small is not None:
            tensor = ir.tensor(integers.astype(small.numpy()), dtype=small)
            _replace_by_narrow(graph, value, initializer(graph, f"{name}_narrow", tensor))
            del graph.initializers[name]


def _narrowest(integers: np.ndarray) -> ir.DataType | None:
    """The smallest unsigned type of at most two bytes that holds these integers, or None."""
    for kind in (ir.DataType.UINT8, ir.DataType.UINT16):
        if np.array_equal(integers.astype(kind.numpy()), integers):
            return kind
    return None


def _replace_by_narrow(graph: ir.Graph, value: ir.Value, stored: ir.Value) -> None:
    """Let all that reads `value` read `stored`, through a Cast where it needs the wide type."""
    others = []
    for node, index in list(value.uses()):
        if node.op_type == "Expand" and node.domain == DOMAIN:  # it has a Cast of its own
            node.replace_input_with(index, stored)
        else:
            others.append((node, index))
    if not others:
        return
    cast = ir.node("Cast", [stored], {"to": value.dtype})
    graph.insert_before(graph[0], cast)
    cast.outputs[0].name = f"{value.name}_wide"
    for node, index in others:
        node.replace_input_with(index, cast.outputs[0])


def as_integers(model: ir.Model, low_bits: str) -> None:
    """Turn every packed weight into integers and a DequantizeLinear with a scale per channel.

    Args:
        model: Changed in place.
        low_bits: A key of INTEGERS.
    """
    dtype, _ = INTEGERS[low_bits]
    for node in nodes_of(model.graph, *BITS):
        if node.domain != DOMAIN:
            continue
        nodes = _dequantised(model.graph, node, dtype)
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], nodes, node.outputs, nodes[-1].outputs
        )
    clean(model)


def _dequantised(graph: ir.Graph, node: ir.Node, dtype: ir.DataType) -> list[ir.Node]:
    """The nodes that give what an unpacking function gives, from integers of `dtype`."""
    packed, scale, shape = [numbers(value) for value in node.inputs]
    codes = lookup(BITS[node.op_type])[packed].reshape(-1)[: shape.prod()].reshape(shape)
    name = node.outputs[0].name
    inputs = [
        _stored(graph, f"{name}_codes", codes, dtype),
        _stored(graph, f"{name}_scale", scale.reshape(-1), ir.DataType.from_numpy(scale.dtype)),
    ]
    weight = ir.node("DequantizeLinear", inputs, {"axis": 0})
    if scale.dtype == np.float32:
        return [weight]
    return [weight, ir.node("Cast", weight.outputs, {"to": ir.DataType.FLOAT})]


def _stored(graph: ir.Graph, name: str, values: np.ndarray, dtype: ir.DataType) -> ir.Value:
    """A new initializer of a type, which may be one of less than a byte."""
    tensor = ir.tensor(values.astype(dtype.numpy()), dtype=dtype, name=name)
    return initializer(graph, name, tensor)


def _names() -> Iterator[str]:
    """Names of one letter, of two, and so on."""
    letters = ascii_letters + "_"
    for length in count(1):
        yield from map("".join, product(letters, repeat=length))


def shorten(graph: ir.Graph) -> None:
    """Give values short names and drop those of nodes.

    Beside weights of one bit, names are a third of the file.
    """
    taken = {value.name for value in (*graph.inputs, *graph.outputs)}
    names = (name for name in _names() if name not in taken)
    stored = list(graph.initializers.values())
    graph.initializers.clear()
    values = [*stored]
    for node in graph:
        values += node.outputs
        node.name = ""
        _drop_defaults(node)
    for value in values:
        if value.name not in taken:
            value.name = next(names)
    for value in stored:
        graph.register_initializer(value)
        value.shape = value.type = None  # the tensor says both


def _drop_defaults(node: ir.Node) -> None:
    """Remove the attributes that have their default value."""
    for name, attribute in list(node.attributes.items()):
        if attribute.value == DEFAULTS.get(name):
            del node.attributes[name]


def _operator(name: str, inputs: list[tuple[str, str]]) -> values.Op:
    """The call of a function: any float (T), bytes or integers in, float32 out."""
    floats = ("T", ["tensor(float)", "tensor(float16)"], "stored numbers")
    schema = OpSchema(
        name,
        DOMAIN,
        1,
        inputs=[OpSchema.FormalParameter(*pair) for pair in inputs],
        outputs=[OpSchema.FormalParameter("y", "tensor(float)")],
        type_constraints=[floats],
    )
    return values.Op(values.Opset(DOMAIN, 1), name, schema)


_STORED = [("packed", "tensor(uint8)"), ("scale", "T"), ("shape", "tensor(int64)")]
UNPACK = {bits: _operator(name, _STORED) for name, bits in BITS.items()}
WIDEN = _operator("Widen", [("x", "T")])
EXPAND = _operator(
    "Expand", [("entries", "T"), ("index", "tensor(int32)"), ("shape", "tensor(int64)")]
)


def unpack(packed: ir.Value, scale: ir.Value, shape: list[int], bits: int) -> ir.Value:
    """`compress.unpack` of compress/binary/packed.py."""
    return UNPACK[bits](packed, scale, list(shape))


def widen(x: ir.Value) -> ir.Value:
    """`compress.widen`."""
    return WIDEN(x)


def expand(entries: ir.Value, index: ir.Value, shape: list[int]) -> ir.Value:
    """`compress.expand`."""
    return EXPAND(entries, index, list(shape))


TABLE: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.compress.unpack.default: unpack,
    torch.ops.compress.widen.default: widen,
    torch.ops.compress.expand.default: expand,
}
