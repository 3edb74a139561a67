"""OpenVINO IR: <stem>.xml and .bin.

They are in float32, with float16 weights, or with Q/DQ pairs that its CPU plugin computes in
integers.
"""

from pathlib import Path
from typing import Any

from compress.quant.affine import REDUCED
from export.targets.contract import Exported, Parts
from export.targets.onnx_files import largest_code
from export.targets.parts import check_no_packed_weights
from export.targets.qdq import CPU, quantise_file
from export.targets.to_onnx import float_graphs

# Measured with 2026.4.1 on AVX2: products of 255 and 127 come out at half of their value, and the
# decoder of passionsr_fast_w8a8 33.0 dB from onnxruntime's exact kernels; with codes within
# [-64, 64] products are right.
OVERFLOW = (
    "OpenVINO's CPU kernels add pairs of products in 16 bits on x86 without VNNI, where full 8-bit "
    "weights overflow; for such processors quantise with reduce_range: true"
)
PACKAGES = ("openvino", "onnx", "onnxruntime")


def write(parts: Parts, folder: Path) -> Exported:
    """Write ONNX files, convert them, and leave the IR alone."""
    check_no_packed_weights(parts)
    has_codes = parts.dtype.startswith("w")
    paths = float_graphs(parts, folder, rewrites=parts.options.rewrite)
    graphs = {}
    largest = 0
    for stem, path in paths.items():
        if has_codes and not parts.quantised:
            quantise_file(path, CPU, parts)
        # With 16 bits it computes in floats.
        code = largest_code(path) if parts.activation_bits == 8 else 0
        largest = max(largest, code)
        graphs[stem] = _convert(path, parts.dtype == "fp16")
        if code:
            graphs[stem]["largest_weight_code"] = code
    return Exported(
        graphs,
        PACKAGES,
        _describe_codes(parts) if has_codes else {},
        notes=[OVERFLOW] if largest > REDUCED else [],
    )


def _convert(path: Path, half_weights: bool) -> dict[str, Any]:
    """Put the IR in the place of an ONNX file; the graph's entry in the manifest."""
    import openvino as ov

    ir_file = path.with_suffix(".xml")
    ov.save_model(ov.convert_model(str(path)), str(ir_file), compress_to_fp16=half_weights)
    path.unlink()
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)
    return {"file": ir_file.name, "weights": f"{path.stem}.bin", "format": "OpenVINO IR 11"}


def _describe_codes(parts: Parts) -> dict[str, str]:
    kind = {
        "scheme": "FakeQuantize",
        "activations": f"uint{parts.activation_bits}, per tensor",
        "weights": "int8, symmetric, per output channel",
    }
    if parts.quantised:
        return kind
    return {
        **kind,
        "placement": "inputs and weights of convolutions and matrix products",
        "by": "onnxruntime, min-max",
    }
