"""Weights of one or two bits and float16 numbers in an ONNX file: operators of our own, each a model-local function.

A function is opaque to the exporter's constant folding, which would write the float32 weight instead; a runtime inlines
it when it loads the file. onnxruntime then folds it in memory unless a session disables its "ConstantFolding".
"""

from collections.abc import Iterator
from itertools import count, product
from string import ascii_letters

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.defs import OpSchema
from onnx_ir.passes import common as passes
from onnxscript import values

import compress.binary.packed  # noqa: F401  importing this registers the operators

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
# What a file may hold instead of bytes that a function unpacks: integers that DequantizeLinear takes by itself, with the
# first opset that knows them. They are larger, and need no function.
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
    """Give `model` the functions that its graph calls, written in its own opset; nothing where it calls none."""
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
    """Store whole numbers, such as positions, in as few bytes as they need; a Cast or a function widens them again."""
    for value in list(graph.initializers.values()):
        if (
            value.dtype not in (ir.DataType.INT64, ir.DataType.INT32)
            or value.const_value.size < NARROW_LEAST
        ):
            continue
        numbers = value.const_value.numpy()
        small = next(
            t
            for t in (ir.DataType.UINT8, ir.DataType.UINT16, value.dtype)
            if np.array_equal(numbers.astype(t.numpy()), numbers)
        )
        if small == value.dtype:
            continue
        stored = ir.Value(
            name=f"{value.name}_narrow",
            shape=value.shape,
            type=ir.TensorType(small),
            const_value=ir.tensor(numbers.astype(small.numpy()), dtype=small),
        )
        graph.register_initializer(stored)
        others = [
            (node, place)
            for node, place in value.uses()
            if node.op_type != "Expand" or node.domain != DOMAIN
        ]
        for node, place in value.uses():
            if (node, place) not in others:  # the function has a Cast of its own
                node.replace_input_with(place, stored)
        if others:
            cast = ir.node("Cast", [stored], {"to": value.dtype})
            graph.insert_before(graph[0], cast)
            for node, place in others:
                node.replace_input_with(place, cast.outputs[0])
            cast.outputs[0].name = f"{value.name}_wide"
        del graph.initializers[value.name]


def as_integers(model: ir.Model, low_bits: str) -> None:
    """Turn every packed weight into `low_bits` of INTEGERS and a DequantizeLinear with a scale per output channel."""
    dtype, _ = INTEGERS[low_bits]

    def stored(name: str, array: np.ndarray, dtype: ir.DataType) -> ir.Value:
        tensor = ir.tensor(array.astype(dtype.numpy()), dtype=dtype, name=name)
        value = ir.Value(
            name=name, shape=tensor.shape, type=ir.TensorType(dtype), const_value=tensor
        )
        model.graph.register_initializer(value)
        return value

    for node in [n for n in model.graph if n.domain == DOMAIN and n.op_type in BITS]:
        packed, scale, shape = (value.const_value.numpy() for value in node.inputs)
        codes = lookup(BITS[node.op_type])[packed].reshape(-1)[: shape.prod()].reshape(shape)
        name = node.outputs[0].name
        weight = ir.node(
            "DequantizeLinear",
            [
                stored(f"{name}_codes", codes, dtype),
                stored(f"{name}_scale", scale.reshape(-1), ir.DataType.from_numpy(scale.dtype)),
            ],
            {"axis": 0},
        )
        nodes = (
            [weight]
            if scale.dtype == np.float32
            else [weight, ir.node("Cast", weight.outputs, {"to": ir.DataType.FLOAT})]
        )
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], nodes, node.outputs, nodes[-1].outputs
        )
    passes.RemoveUnusedNodesPass()(model)


def _names() -> Iterator[str]:
    letters = ascii_letters + "_"
    for length in count(1):
        yield from map("".join, product(letters, repeat=length))


def shorten(graph: ir.Graph) -> None:
    """Give values short names and drop those of nodes: beside weights of one bit, names are a third of the file."""
    taken = {value.name for value in (*graph.inputs, *graph.outputs)}
    names = (name for name in _names() if name not in taken)
    stored = list(graph.initializers.values())
    graph.initializers.clear()
    for value in (*stored, *(value for node in graph for value in node.outputs)):
        if value.name not in taken:
            value.name = next(names)
    for value in stored:
        graph.initializers[value.name] = value
        value.shape = value.type = None  # the tensor says both
    for node in graph:
        node.name = ""
        for name in [
            key
            for key, attribute in node.attributes.items()
            if attribute.value == DEFAULTS.get(key)
        ]:
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


TABLE = {
    torch.ops.compress.unpack.default: unpack,
    torch.ops.compress.widen.default: widen,
    torch.ops.compress.expand.default: expand,
}
