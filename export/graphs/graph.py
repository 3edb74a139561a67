"""A finished ONNX graph: made small, checked, and written so that no half file remains."""

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from compress.core.errors import UserError
from compress.core.folders import scratch
from export.graphs.edit import (
    attribute,
    maker_of,
    nodes_of,
    numbers,
    operand,
    optional_operand,
    static_shape,
)
from export.graphs.storage import EMBED_LIMIT, save_graph

MAX_IR = 13  # the newest version of the format that runtimes take
OPSETS = range(18, 27)
OPSET_16_BIT = 21  # the first whose QuantizeLinear knows 16 bits
INTEGERS = (
    ir.DataType.INT8,
    ir.DataType.UINT8,
    ir.DataType.INT16,
    ir.DataType.UINT16,
    ir.DataType.INT2,
    ir.DataType.INT4,
)
CONVOLUTIONS = ("Conv", "ConvTranspose")
# Operators that only turn codes into numbers, or the other way round.
CONVERSIONS = ("DequantizeLinear", "QuantizeLinear", "Cast", "Identity")


def check_opset(opset: int, sixteen_bit: bool) -> None:
    """Refuse an opset that is out of bounds, or too old for 16-bit QuantizeLinear.

    Raises:
        UserError: It is such an opset.
    """
    if opset not in OPSETS:
        raise UserError(f"opset {opset} is not supported; choose {OPSETS[0]} to {OPSETS[-1]}")
    if sixteen_bit and opset < OPSET_16_BIT:
        raise UserError(
            f"opset {opset} cannot quantise to 16 bits, which this model uses; choose 21 or later"
        )


def tidy(model: ir.Model) -> None:
    """Merge what is there twice and drop what only a debugger reads. Values do not change.

    The exporter writes each node's Python stack into it: about as many bytes as the weights of a
    small int8 model.
    """
    adopt(model.graph)
    fold_parameters(model.graph)
    make_outputs(model.graph)
    passes.DeduplicateInitializersPass(size_limit=2**40)(model)
    passes.CommonSubexpressionEliminationPass()(model)
    own_zero_points(model.graph)
    spell_out(model.graph)
    passes.RemoveUnusedNodesPass()(model)
    _drop_notes(model)
    outputs = set(model.graph.outputs)
    for node in model.graph:
        for value in node.outputs:
            if value not in outputs:
                value.shape = value.type = None  # every loader infers these again


def make_outputs(graph: ir.Graph) -> None:
    """Let a node make every output, also one that is a stored tensor.

    ONNX's inference of shapes declares such an output twice.
    """
    for place, stored in enumerate(graph.outputs):
        if not stored.is_initializer():
            continue
        made = ir.Value(name=stored.name, type=stored.type, shape=stored.shape)
        stored.name = f"{stored.name}_stored"
        graph.append(ir.node("Identity", [stored], outputs=[made]))
        graph.outputs[place] = made


def _drop_notes(model: ir.Model) -> None:
    """Drop documentation and metadata of the model, its nodes and its values."""
    model.metadata_props.clear()
    graph = model.graph
    values = [*graph.inputs, *graph.outputs, *graph.initializers.values()]
    nodes = list(graph)
    graph.metadata_props.clear()
    for function in model.functions.values():
        function.metadata_props.clear()
        nodes += function
    for node in nodes:
        node.metadata_props.clear()
        node.doc_string = None
        values += node.outputs
    for value in values:
        value.metadata_props.clear()


def spell_out(graph: ir.Graph) -> None:
    """Give every convolution its kernel_shape, strides, pads and dilations.

    onnxruntime's WebGPU kernels refuse one that leaves them to their defaults.
    """
    for node in nodes_of(graph, *CONVOLUTIONS):
        given = node.attributes
        # A kernel that the graph computes, as in rewritten attention, has its sides in the node.
        sides = list(given.get_ints("kernel_shape", ())) or _kernel_sides(node.inputs[1])
        if node.domain or sides is None:
            continue
        axes = len(sides)
        wanted = {"kernel_shape": sides, "strides": [1] * axes, "dilations": [1] * axes}
        if given.get_string("auto_pad", "NOTSET") == "NOTSET" and "output_shape" not in given:
            wanted["pads"] = [0] * 2 * axes
        for name, values in wanted.items():
            if name not in given:
                given[name] = ir.AttrInt64s(name, values)


def _kernel_sides(weight: ir.Value | None) -> list[int] | None:
    """The sides of a convolution's kernel, through conversions; None where nothing says them."""
    while weight is not None:
        sides = static_shape(weight)
        if weight.const_value is not None:
            sides = tuple(weight.const_value.shape.numpy())
        if sides is not None:
            return list(sides)[2:]
        node = maker_of(weight, *CONVERSIONS)
        weight = None if node is None else node.inputs[0]
    return None


def unused(graph: ir.Graph, name: str | None) -> str:
    """`name` with the first number that makes it the name of no initializer."""
    number = count()
    numbered = f"{name}_{next(number)}"
    while numbered in graph.initializers:
        numbered = f"{name}_{next(number)}"
    return numbered


def adopt(graph: ir.Graph) -> None:
    """Register constants that nodes read and the graph does not list.

    Where several clamps read one tensor, the exporter's fusion of Max and Min into Clip gives their
    limits one name.
    """
    for node in graph:
        for value in node.inputs:
            if value is not None and _is_loose(graph, value):
                value.name = unused(graph, value.name)
                graph.register_initializer(value)


def _is_loose(graph: ir.Graph, value: ir.Value) -> bool:
    """Whether a value is a constant that the graph does not list."""
    if value.producer() is not None or value.const_value is None or value in graph.inputs:
        return False
    return graph.initializers.get(value.name or "") is not value


def fold_parameters(graph: ir.Graph) -> None:
    """Store scales and zero points in the type that they are read in.

    The exporter casts them, and folds the cast of at most 8,192 values: a layer with more output
    channels keeps it.
    """
    for node in nodes_of(graph, "QuantizeLinear", "DequantizeLinear"):
        for index in (1, 2):
            cast = maker_of(optional_operand(node, index), "Cast")
            stored = None if cast is None else operand(cast, 0).const_value
            if cast is None or stored is None:
                continue
            dtype = ir.DataType(attribute(cast, "to"))
            values = ir.tensor(stored.numpy().astype(dtype.numpy()))
            folded = ir.Value(
                name=unused(graph, cast.outputs[0].name),
                shape=ir.Shape(values.shape.numpy()),
                type=ir.TensorType(dtype),
                const_value=values,
            )
            graph.register_initializer(folded)
            node.replace_input_with(index, folded)


def own_zero_points(graph: ir.Graph) -> None:
    """Give every stored weight a zero point of its own.

    onnxruntime's exact integers (export/parity) make unsigned weights of signed ones, and fail
    where two share a zero point.
    """
    for node in nodes_of(graph, "DequantizeLinear"):
        zero_point = optional_operand(node, 2)
        if zero_point is None or operand(node, 0).const_value is None:
            continue
        if len(zero_point.uses()) > 1:
            own = ir.Value(
                name=unused(graph, zero_point.name),
                shape=zero_point.shape,
                type=zero_point.type,
                const_value=zero_point.const_value,
            )
            graph.register_initializer(own)
            node.replace_input_with(2, own)


def check_quantised(model: ir.Model, layers: int, where: str) -> None:
    """Check that each of `layers` quantised weights is stored once, as integers.

    A weight that the exporter folded back to floating point would run, at four times the size.

    Raises:
        RuntimeError: One is not.
    """
    stored = 0
    for node in nodes_of(model.graph, "DequantizeLinear"):
        source = operand(node, 0)
        if source.const_value is None:
            continue
        dtype = source.const_value.dtype
        if dtype not in INTEGERS:
            raise RuntimeError(
                f"{where}: weight {source.name} is stored as {dtype}, not as integers"
            )
        stored += 1
    if stored < layers:
        raise RuntimeError(
            f"{where}: {layers} layers are quantised but {stored} weights are stored as integers"
        )


def check_packed(model: ir.Model, expected: int, where: str) -> None:
    """Check that the weights stored as bits are still bytes.

    Args:
        model: The graph.
        expected: Bytes of these weights in the torch model.
        where: What the graph is, for the error.

    Raises:
        RuntimeError: They are not.
    """
    sizes: dict[str | None, int] = {}
    for node in model.graph:
        if node.op_type.startswith("Unpack"):
            packed = numbers(node.inputs[0])
            if packed.dtype == np.uint8:
                sizes[operand(node, 0).name] = packed.nbytes
    if sum(sizes.values()) > expected or (expected and not sizes):
        raise RuntimeError(
            f"{where}: {expected} bytes of packed weights became {sum(sizes.values())}"
        )


def write(
    model: ir.Model, path: Path, metadata: Mapping[str, Any], embed_limit: int = EMBED_LIMIT
) -> list[Path]:
    """Check a graph and write it; all files are complete before the first takes its final name.

    Args:
        model: The graph.
        path: The file; its folder is made.
        metadata: Notes in the file; what is no text is written as JSON.
        embed_limit: Bytes of weights, beyond which they go to `path`.data.

    Returns:
        The files written.

    Raises:
        RuntimeError: The graph is of a newer version of the format than runtimes take.
    """
    for key, value in metadata.items():
        model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    if model.ir_version > MAX_IR:
        raise RuntimeError(
            f"{path.name}: IR version {model.ir_version} is newer than {MAX_IR}, which runtimes "
            "take"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch(path) as folder:
        names = [file.name for file in save_graph(model, folder / path.name, embed_limit)]
        onnx.checker.check_model(str(folder / path.name), full_check=True)
        for name in reversed(names):  # the graph last: its presence says that its data is there
            (folder / name).replace(path.with_name(name))
        if len(names) == 1:
            path.with_name(f"{path.name}.data").unlink(missing_ok=True)
        return [path.with_name(name) for name in names]
