"""A finished ONNX graph: made small, checked, and written so that no half file remains."""

import json
from collections.abc import Iterable
from itertools import count
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from compress.core.errors import UserError
from compress.core.folders import scratch
from export.graphs.storage import EMBED_LIMIT, save_graph

MAX_IR = 13
OPSETS = range(18, 27)
INTEGERS = (
    ir.DataType.INT8,
    ir.DataType.UINT8,
    ir.DataType.INT16,
    ir.DataType.UINT16,
    ir.DataType.INT2,
    ir.DataType.INT4,
)


def check_opset(opset: int, sixteen_bit: bool) -> None:
    """Raise UserError for an opset that is out of bounds, or too old for 16-bit QuantizeLinear."""
    if opset not in OPSETS:
        raise UserError(f"opset {opset} is not supported; choose {OPSETS[0]} to {OPSETS[-1]}")
    if sixteen_bit and opset < 21:
        raise UserError(
            f"opset {opset} cannot quantise to 16 bits, which this model uses; choose 21 or later"
        )


def tidy(model: ir.Model) -> None:
    """Merge what is there twice and drop what only a debugger reads. Values do not change.

    The exporter writes each node's Python stack into it: about as many bytes as the weights of a small int8 model.
    """
    adopt(model.graph)
    passes.DeduplicateInitializersPass(size_limit=2**40)(model)
    passes.CommonSubexpressionEliminationPass()(model)
    own_zero_points(model.graph)
    spell_out(model.graph)
    passes.RemoveUnusedNodesPass()(model)
    model.metadata_props.clear()
    for graph in (model.graph, *model.functions.values()):
        graph.metadata_props.clear()
        for node in graph:
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    inner = set(model.graph.outputs)
    for node in model.graph:
        for value in node.outputs:
            if value not in inner:
                value.shape = value.type = None  # every loader infers these again


def spell_out(graph: ir.Graph) -> None:
    """Give every convolution its kernel_shape, strides, pads and dilations: onnxruntime's WebGPU
    kernels refuse one that leaves them to their defaults."""
    for node in graph:
        if node.op_type not in ("Conv", "ConvTranspose") or node.domain:
            continue
        given = node.attributes
        # A kernel that the graph computes, as in rewritten attention, has its sides in the attribute.
        sides = list(given.get_ints("kernel_shape", ())) or _kernel_sides(node.inputs[1])
        if sides is None:
            continue
        count = len(sides)
        wanted = {"kernel_shape": sides, "strides": [1] * count, "dilations": [1] * count}
        if given.get_string("auto_pad", "NOTSET") == "NOTSET" and "output_shape" not in given:
            wanted["pads"] = [0] * 2 * count
        for name, values in wanted.items():
            if name not in given:
                given[name] = ir.AttrInt64s(name, values)


def _kernel_sides(weight: ir.Value) -> list[int] | None:
    """The sides of a convolution's kernel, through what only turns codes into numbers; None where
    nothing says them."""
    while weight is not None:
        shape = weight.const_value.shape if weight.const_value is not None else weight.shape
        if shape is not None and all(isinstance(side, int) for side in shape):
            return list(shape)[2:]
        node = weight.producer()
        if node is None or node.op_type not in (
            "DequantizeLinear",
            "QuantizeLinear",
            "Cast",
            "Identity",
        ):
            return None
        weight = node.inputs[0]
    return None


def unused(graph: ir.Graph, name: str) -> str:
    """`name`, with the first number that gives it to no initializer."""
    return next(numbered for i in count() if (numbered := f"{name}_{i}") not in graph.initializers)


def adopt(graph: ir.Graph) -> None:
    """Register constants that nodes read and the graph does not list.

    Where several clamps read one tensor, the exporter's fusion of Max and Min into Clip gives their limits one name.
    """
    for node in graph:
        for value in node.inputs:
            if value is None or value.producer() is not None or value.const_value is None:
                continue
            if graph.initializers.get(value.name) is not value and value not in graph.inputs:
                value.name = unused(graph, value.name)
                graph.register_initializer(value)


def own_zero_points(graph: ir.Graph) -> None:
    """A zero point of its own for every stored weight: onnxruntime's exact integers (export/parity/verify.py) make unsigned
    weights of signed ones, and fail where two share a zero point."""
    for node in graph:
        if node.op_type != "DequantizeLinear" or len(node.inputs) < 3:
            continue
        weight, _, zero_point = node.inputs
        if weight.const_value is None or len(zero_point.uses()) == 1:
            continue
        name = unused(graph, zero_point.name)
        own = ir.Value(
            name=name,
            shape=zero_point.shape,
            type=zero_point.type,
            const_value=zero_point.const_value,
        )
        graph.register_initializer(own)
        node.replace_input_with(2, own)


def check_quantised(model: ir.Model, layers: int, where: str) -> None:
    """Raise RuntimeError unless each of `layers` quantised weights is stored once, as integers.

    A weight that the exporter folded back to floating point would still run, at four times the size.
    """
    stored = 0
    for node in model.graph:
        source = node.inputs[0] if node.op_type == "DequantizeLinear" else None
        if source is not None and source.const_value is not None:
            if (dtype := source.const_value.dtype) not in INTEGERS:
                raise RuntimeError(
                    f"{where}: weight {source.name} is stored as {dtype}, not as integers"
                )
            stored += 1
    if stored < layers:
        raise RuntimeError(
            f"{where}: {layers} layers are quantised but {stored} weights are stored as integers"
        )


def check_packed(model: ir.Model, expected: int, where: str) -> None:
    """Raise RuntimeError unless the weights stored as bits, `expected` bytes in all, are still bytes."""
    found = {
        node.inputs[0].name: node.inputs[0].const_value.nbytes
        for node in model.graph
        if node.op_type.startswith("Unpack")
        and node.inputs[0].const_value.dtype == ir.DataType.UINT8
    }
    if sum(found.values()) > expected or expected and not found:
        raise RuntimeError(
            f"{where}: {expected} bytes of packed weights became {sum(found.values())}"
        )


def write(
    model: ir.Model, path: Path, metadata: dict[str, str | dict], embed_limit: int = EMBED_LIMIT
) -> list[Path]:
    """Check `model` and write it under `path`; weights beyond `embed_limit` bytes go to `path`.data beside it.

    Returns the files written. All are complete before the first takes its final name.
    """
    model.metadata_props.update(
        {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    )
    if model.ir_version > MAX_IR:
        raise RuntimeError(
            f"{path.name}: IR version {model.ir_version} is newer than {MAX_IR}, which runtimes take"
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


def total_bytes(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)
