"""ONNX files for onnxruntime: float32, float16, int8 weights, or Q/DQ; static or dynamic shapes."""

from pathlib import Path

from export.graphs.export_onnx import export_onnx
from export.graphs.graph import OPSET_16_BIT
from export.rewrites.apply import rewrite_exported
from export.targets.contract import Exported, Parts
from export.targets.float16 import as_float16
from export.targets.onnx_files import manifest_entry
from export.targets.qdq import CPU, quantise_file
from export.targets.weight_only import SCHEME, as_weight_only, float_activations

PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def float_graphs(
    parts: Parts, folder: Path, opset: int | None = None, rewrites: str | None = None
) -> dict[str, Path]:
    """Write `<stem>.onnx` of every graph as the model is.

    That is in float32, or with the Q/DQ pairs of a quantised one.

    Args:
        parts: What to export.
        folder: Where to.
        opset: None for one that fits the model.
        rewrites: An NPU, or names of rewrites with commas between.

    Returns:
        Stem -> file.
    """
    options = parts.options
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
        rewrite_exported(paths, parts.model, rewrites, options.lr_size)
    return {path.stem: path for path in paths}


def write(parts: Parts, folder: Path) -> Exported:
    """Write the ONNX files of a model for onnxruntime's CPU kernels."""
    opset = parts.options.opset
    if opset is None and parts.dtype == "w8a16" and parts.quantised:
        opset = OPSET_16_BIT
    with float_activations(parts):
        paths = float_graphs(parts, folder, opset, parts.options.rewrite)
    for path in paths.values():
        convert_file(path, parts)
    graphs = {stem: manifest_entry(path) for stem, path in paths.items()}
    return Exported(graphs, PACKAGES, describe_codes(parts))


def convert_file(path: Path, parts: Parts) -> None:
    """Bring the file of a graph into the dtype of `parts`; a model's own codes stay."""
    if parts.dtype == "fp16":
        as_float16(path)
    elif not parts.dtype.startswith("w") or parts.quantised:
        return
    elif parts.dtype == "w8":
        as_weight_only(path)
    else:
        quantise_file(path, CPU, parts)


def describe_codes(parts: Parts) -> dict[str, str]:
    """What the manifest says of the codes; empty for floats."""
    if not parts.dtype.startswith("w"):
        return {}
    if parts.dtype == "w8":
        by = "the quantize pass" if parts.quantised else "the greatest magnitude of each channel"
        return {**SCHEME, "by": by}
    kind = {"scheme": "QuantizeLinear/DequantizeLinear pairs"}
    if parts.quantised:
        return kind
    return {
        **kind,
        "placement": "inputs and weights of convolutions and matrix products",
        "by": "onnxruntime, min-max",
        "weights": "int8, symmetric, per output channel",
        "activations": f"uint{parts.activation_bits}, asymmetric, per tensor",
    }
