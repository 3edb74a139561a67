"""ONNX files that are there: what the manifest says of one, and another in the place of one."""

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from export.graphs.graph import write as write_graph
from export.graphs.storage import load_graph
from export.targets.needs import least_onnxruntime

STANDARD_DOMAINS = ("", "ai.onnx")


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX' own operators that a graph is written in."""
    return next(entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS)


def largest_code(path: Path) -> int:
    """The largest magnitude of the signed 8-bit weights in an ONNX file; 0 where it has none."""
    graph = load_graph(path).graph
    weights = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    largest = 0
    for tensor in graph.initializer:
        if tensor.name in weights and tensor.data_type == onnx.TensorProto.INT8:
            codes = onnx.numpy_helper.to_array(tensor).astype(int)
            largest = max(largest, int(abs(codes).max(initial=0)))
    return largest


def manifest_entry(path: Path) -> dict[str, Any]:
    """The manifest's entry of an ONNX file."""
    model = onnx.load(path, load_external_data=False)
    opset = opset_of(model)
    entry = {
        "file": path.name,
        "format": f"ONNX opset {opset}, IR {model.ir_version}",
        "least_onnxruntime": least_onnxruntime(model.ir_version, opset),
    }
    data = path.with_name(f"{path.name}.data")
    if data.is_file():
        entry["data"] = data.name
    return entry


def replace_file(model: onnx.ModelProto, path: Path) -> None:
    """Write `model` over the file at `path`, with the metadata that it had."""
    notes = {entry.key: entry.value for entry in model.metadata_props}
    if not notes:
        old = onnx.load(path, load_external_data=False)
        notes = {entry.key: entry.value for entry in old.metadata_props}
    graph = ir.from_proto(model)
    graph.graph.sort()  # the float16 converter and the quantiser put new nodes at the end
    write_graph(graph, path, notes)
