"""TensorRT: strongly typed ONNX files, a builder script and trtexec's line.

The files are in float32, in float16, or have explicit int8 or fp8 Q/DQ pairs. An engine holds for
one GPU and one version of TensorRT, so it is built where it runs. No part of it ran here.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.core.errors import UserError
from compress.core.files import write_text
from export.graphs.storage import load_graph
from export.targets.contract import Exported, Parts
from export.targets.float16 import as_float16
from export.targets.onnx_files import manifest_entry, replace_file
from export.targets.parts import check_no_packed_weights
from export.targets.qdq import TENSORRT, quantise_file
from export.targets.to_onnx import float_graphs

PACKAGES = ("onnx", "onnxruntime", "tensorrt")
CODES = {"w8a8": "int8", "fp8": "float8 E4M3"}  # of a dtype
FP8_TOP, INT8_TOP = 448.0, 127.0
TRTEXEC = "trtexec --onnx={file} --saveEngine={engine} --stronglyTyped"
BUILDER = '''"""Build the engines of this folder: python build.py

Needs tensorrt and a GPU; run.py then needs cuda-python too.
"""

import json
import sys
from pathlib import Path

import tensorrt as trt

folder = Path(__file__).resolve().parent
logger = trt.Logger(trt.Logger.WARNING)
for stem, graph in json.loads((folder / "manifest.json").read_text())["graphs"].items():
    builder = trt.Builder(logger)
    # Strongly typed: the precision of every layer is what the file says, and integers are where
    # Q/DQ pairs are.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(folder / graph["file"])):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        sys.exit("\\n".join(f"error: {graph['file']}: {error}" for error in errors))
    engine = builder.build_serialized_network(network, builder.create_builder_config())
    if engine is None:
        sys.exit(f"error: TensorRT could not build {stem}")
    partial = folder / f".{graph['engine']}.partial"
    partial.write_bytes(engine)
    partial.replace(folder / graph["engine"])
    print(folder / graph["engine"])
'''


def as_fp8(model: onnx.ModelProto) -> None:
    """Turn symmetric int8 pairs into float8 (E4M3) pairs of the same ranges, in place.

    A scale becomes scale * 127 / 448; the zero point is 0.

    Raises:
        RuntimeError: A zero point is not 0.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    halves = [
        node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    for name in {node.input[1] for node in halves}:
        scale = numpy_helper.to_array(stored[name]) * (INT8_TOP / FP8_TOP)
        stored[name].CopyFrom(numpy_helper.from_array(scale.astype(np.float32), name))
    for name in {node.input[2] for node in halves}:
        zero = numpy_helper.to_array(stored[name])
        if zero.any():
            raise RuntimeError(f"{name}: float8 has no zero points")
        nothing = bytes(zero.size)
        stored[name].CopyFrom(
            helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, zero.shape, nothing, raw=True)
        )


def _convert_file(path: Path, parts: Parts) -> None:
    """Rewrite a float32 file in the dtype of `parts`."""
    if parts.dtype == "fp16":
        as_float16(path)
    elif parts.dtype in CODES:
        quantise_file(path, TENSORRT, parts)
        if parts.dtype == "fp8":
            model = load_graph(path)
            as_fp8(model)
            replace_file(model, path)


def _describe_codes(dtype: str) -> dict[str, Any]:
    if dtype not in CODES:
        return {}
    return {
        "scheme": "explicit Q/DQ",
        "placement": "inputs and weights of convolutions and matrix products",
        "by": "onnxruntime, min-max",
        "weights": f"{CODES[dtype]}, symmetric, per output channel",
        "activations": f"{CODES[dtype]}, symmetric, per tensor",
    }


def write(parts: Parts, folder: Path) -> Exported:
    """Write the files, and parse them where TensorRT is installed."""
    check_no_packed_weights(parts)
    paths = float_graphs(parts, folder, rewrites=parts.options.rewrite)
    for path in paths.values():
        _convert_file(path, parts)
    write_text(folder / "build.py", BUILDER)
    graphs = {
        stem: {**manifest_entry(path), "engine": f"{stem}.engine"} for stem, path in paths.items()
    }
    lines = [
        TRTEXEC.format(file=graph["file"], engine=graph["engine"]) for graph in graphs.values()
    ]
    if importlib.util.find_spec("tensorrt") is not None:
        parse(folder, graphs)
    return Exported(
        graphs,
        PACKAGES,
        {**_describe_codes(parts.dtype), "trtexec": lines},
        runs=False,
        notes=[
            "written, not built: run python build.py in the folder where TensorRT and the GPU "
            "are, or",
            *lines,
        ],
    )


def parse(folder: Path, graphs: dict[str, dict[str, Any]]) -> None:
    """Raise UserError for what the installed TensorRT cannot parse."""
    import tensorrt as trt

    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    for graph in graphs.values():
        logger = trt.Logger(trt.Logger.ERROR)
        network = trt.Builder(logger).create_network(strongly_typed)
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(folder / graph["file"])):
            raise UserError(
                f"{graph['file']}: TensorRT {trt.__version__} cannot parse it "
                f"({parser.get_error(0)}); choose another --dtype"
            )
