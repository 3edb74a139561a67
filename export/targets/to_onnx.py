"""ONNX files for onnxruntime on a CPU: float32, float16, or Q/DQ, static or dynamic shapes."""

from pathlib import Path

import onnx
import onnx_ir as ir
from onnxruntime.transformers.float16 import convert_float_to_float16

from export.graphs.export_onnx import OPSET_16_BIT, export_onnx
from export.graphs.graph import write as write_graph
from export.graphs.storage import add_shapes, load_graph
from export.targets.needs import least_onnxruntime
from export.targets.parts import Exported, Options, Parts
from export.targets.qdq import quantise, searches

# Sums over many pixels, where half precision overflows or rounds everything away.
FLOAT32_OPS = ("InstanceNormalization", "ReduceMean", "ReduceSum", "Resize")


def float_graphs(
    parts: Parts,
    folder: Path,
    options: Options,
    opset: int | None = None,
    rewrites: str | None = None,
) -> dict[str, Path]:
    """`<stem>.onnx` of every graph as the model is: float32, or with the Q/DQ pairs of a quantised one."""
    paths = export_onnx(
        parts.model,
        folder,
        lr_size=options.lr_size,
        dynamic=options.dynamic,
        opset=opset,
        low_bits=options.low_bits,
        stems=parts.stems,
    )
    if rewrites:
        from export.rewrite import rewrite_exported

        rewrite_exported(paths, parts.model, rewrites, options.lr_size)
    return {path.stem: path for path in paths}


def as_float16(path: Path) -> None:
    """Weights and arithmetic in float16 but for FLOAT32_OPS and searches; inputs and outputs stay float32."""
    model = load_graph(path)
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
    model = convert_float_to_float16(
        add_shapes(model),
        keep_io_types=True,
        op_block_list=list(FLOAT32_OPS),
        node_block_list=searches(model),
        disable_shape_infer=True,
    )
    single_casts(model.graph)
    straight(model.graph)
    del model.graph.value_info[:]  # it leaves the old types of some
    replace(model, path)


def single_casts(graph: onnx.GraphProto) -> None:
    """Keep the first of casts with one name: onnxruntime's converter writes `X_cast_to_fp32` anew for each of
    FLOAT32_OPS that reads X."""
    seen, kept = set(), []
    for node in graph.node:
        if node.op_type != "Cast" or node.output[0] not in seen:
            kept.append(node)
        seen.update(node.output)
    del graph.node[:]
    graph.node.extend(kept)


def straight(graph: onnx.GraphProto) -> None:
    """Between two operators in float32, no rounding to float16 and back: the converter leaves `X_cast_to_fp16` -> X ->
    `X_cast_to_fp32` there."""
    casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    wide = {
        name: f"{half}_cast_to_fp16"
        for name, half in casts.items()
        if casts.get(half) == f"{half}_cast_to_fp16"
    }
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = wide.get(name, name)
    for _ in range(2):  # the second cast of a pair, then the first, where nothing else reads it
        used = {name for node in graph.node for name in node.input} | {
            value.name for value in graph.output
        }
        kept = [node for node in graph.node if node.op_type != "Cast" or node.output[0] in used]
        del graph.node[:]
        graph.node.extend(kept)


def replace(model: onnx.ModelProto, path: Path) -> None:
    """Write `model` over the file at `path`, with the notes that it had."""
    notes = {p.key: p.value for p in model.metadata_props}
    if not notes:
        notes = {p.key: p.value for p in onnx.load(path, load_external_data=False).metadata_props}
    graph = ir.from_proto(model)
    graph.graph.sort()  # the float16 converter and the quantiser put new nodes at the end
    write_graph(graph, path, notes)


def quantise_file(path: Path, form: str, parts: Parts, doors: bool = True) -> None:
    arrays = [x.numpy() for x in parts.inputs(path.stem)]
    replace(
        quantise(load_graph(path), form, arrays, 16 if parts.activation_bits == 16 else 8, doors),
        path,
    )


def largest_code(path: Path) -> int:
    """The largest magnitude of the signed 8-bit weights in an ONNX file; 0 where it has none."""
    graph = load_graph(path).graph
    weights = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    stored = [
        tensor
        for tensor in graph.initializer
        if tensor.name in weights and tensor.data_type == onnx.TensorProto.INT8
    ]
    return max(
        (
            int(abs(onnx.numpy_helper.to_array(tensor).astype(int)).max(initial=0))
            for tensor in stored
        ),
        default=0,
    )


def entry(path: Path) -> dict:
    """The manifest's entry of an ONNX file."""
    model = onnx.load(path, load_external_data=False)
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    data = path.with_name(f"{path.name}.data")
    return {
        "file": path.name,
        "format": f"ONNX opset {opset}, IR {model.ir_version}",
        "least_onnxruntime": least_onnxruntime(model.ir_version, opset),
        **({"data": data.name} if data.is_file() else {}),
    }


def write(parts: Parts, folder: Path, options: Options) -> Exported:
    post_training = parts.dtype.startswith("w") and not parts.quantised
    opset = options.opset or (OPSET_16_BIT if parts.dtype == "w8a16" and parts.quantised else None)
    paths = float_graphs(parts, folder, options, opset, options.rewrite)
    for path in paths.values():
        if parts.dtype == "fp16":
            as_float16(path)
        elif post_training:
            quantise_file(path, "cpu", parts)
    kind = (
        {"scheme": "QuantizeLinear/DequantizeLinear pairs"} if parts.dtype.startswith("w") else {}
    )
    if post_training:
        kind |= {
            "placement": "inputs and weights of convolutions and matrix products",
            "by": "onnxruntime, min-max",
            "weights": "int8, symmetric, per output channel",
            "activations": f"uint{parts.activation_bits}, asymmetric, per tensor",
        }
    return Exported(
        {stem: entry(path) for stem, path in paths.items()},
        ("onnx", "onnxruntime", "onnxscript"),
        kind,
    )
