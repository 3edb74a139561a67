"""TensorRT: strongly typed ONNX (float32, float16, explicit int8 or fp8 Q/DQ), a builder script and trtexec's line.

An engine holds for one GPU and one version of TensorRT, so it is built where it runs. No part of it ran here.
"""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.core.errors import UserError
from compress.core.files import write_text
from export.graphs.storage import load_graph
from export.targets.parts import Exported, Options, Parts, float_model
from export.targets.to_onnx import as_float16, entry, float_graphs, quantise_file, replace

FP8_TOP, INT8_TOP = 448.0, 127.0
TRTEXEC = "trtexec --onnx={file} --saveEngine={engine} --stronglyTyped"
BUILDER = '''"""Build the engines of this folder: python build.py. Needs tensorrt and a GPU; run.py then needs cuda-python too."""

import json
import sys
from pathlib import Path

import tensorrt as trt

folder = Path(__file__).resolve().parent
logger = trt.Logger(trt.Logger.WARNING)
for stem, graph in json.loads((folder / "manifest.json").read_text())["graphs"].items():
    builder = trt.Builder(logger)
    # Strongly typed: the precision of every layer is what the file says, and Q/DQ pairs are where integers are.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(folder / graph["file"])):
        sys.exit("\\n".join(f"error: {graph['file']}: {parser.get_error(i)}" for i in range(parser.num_errors)))
    engine = builder.build_serialized_network(network, builder.create_builder_config())
    if engine is None:
        sys.exit(f"error: TensorRT could not build {stem}")
    partial = folder / f".{graph['engine']}.partial"
    partial.write_bytes(engine)
    partial.replace(folder / graph["engine"])
    print(folder / graph["engine"])
'''


def as_fp8(model: onnx.ModelProto) -> None:
    """Symmetric int8 pairs -> float8 (E4M3) pairs of the same ranges, in place: scale * 127 / 448, zero point 0."""
    stored = {i.name: i for i in model.graph.initializer}
    scales = {
        node.input[1]
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    }
    zeros = {
        node.input[2]
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    }
    for name in scales:
        array = numpy_helper.to_array(stored[name])
        stored[name].CopyFrom(
            numpy_helper.from_array((array * (INT8_TOP / FP8_TOP)).astype(np.float32), name)
        )
    for name in zeros:
        array = numpy_helper.to_array(stored[name])
        if array.any():
            raise RuntimeError(f"{name}: float8 has no zero points")
        stored[name].CopyFrom(
            helper.make_tensor(
                name, TensorProto.FLOAT8E4M3FN, array.shape, bytes(array.size), raw=True
            )
        )


def write(parts: Parts, folder: Path, options: Options) -> Exported:
    float_model(parts)
    paths = float_graphs(parts, folder, options, rewrites=options.rewrite)
    for path in paths.values():
        if parts.dtype == "fp16":
            as_float16(path)
        elif parts.dtype in ("w8a8", "fp8"):
            quantise_file(path, "tensorrt", parts)
            if parts.dtype == "fp8":
                model = load_graph(path)
                as_fp8(model)
                replace(model, path)
    write_text(folder / "build.py", BUILDER)
    graphs = {stem: {**entry(path), "engine": f"{stem}.engine"} for stem, path in paths.items()}
    lines = [
        TRTEXEC.format(file=graph["file"], engine=graph["engine"]) for graph in graphs.values()
    ]
    kind = {}
    if parts.dtype in ("w8a8", "fp8"):
        codes = "int8" if parts.dtype == "w8a8" else "float8 E4M3"
        kind = {
            "scheme": "explicit Q/DQ",
            "placement": "inputs and weights of convolutions and matrix products",
            "by": "onnxruntime, min-max",
            "weights": f"{codes}, symmetric, per output channel",
            "activations": f"{codes}, symmetric, per tensor",
        }
    if importlib.util.find_spec("tensorrt") is not None:
        parse(folder, graphs)
    return Exported(
        graphs,
        ("onnx", "onnxruntime", "tensorrt"),
        {**kind, "trtexec": lines},
        runs=False,
        notes=[
            "written, not built: run python build.py in the folder where TensorRT and the GPU are, or",
            *lines,
        ],
    )


def parse(folder: Path, graphs: dict[str, dict]) -> None:
    """Raise UserError for what the installed TensorRT cannot parse."""
    import tensorrt as trt

    for graph in graphs.values():
        logger = trt.Logger(trt.Logger.ERROR)
        network = trt.Builder(logger).create_network(
            1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        )
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(folder / graph["file"])):
            raise UserError(
                f"{graph['file']}: TensorRT {trt.__version__} cannot parse it ({parser.get_error(0)}); choose "
                "another --dtype"
            )
