"""OpenVINO IR: <stem>.xml and .bin, float32, float16 weights, or Q/DQ pairs that its CPU plugin computes in
integers."""

from pathlib import Path

from compress.quant.affine import REDUCED
from export.targets.parts import Exported, Options, Parts, float_model
from export.targets.to_onnx import float_graphs, largest_code, quantise_file

# Measured with 2026.4.1 on AVX2: products of 255 and 127 come out at half of their value, and the
# decoder of passionsr_fast_w8a8 33.0 dB from onnxruntime's exact kernels; with codes within
# [-64, 64] products are right.
OVERFLOW = (
    "OpenVINO's CPU kernels add pairs of products in 16 bits on x86 without VNNI, where full 8-bit "
    "weights overflow; for such processors quantise with reduce_range: true"
)


def write(parts: Parts, folder: Path, options: Options) -> Exported:
    import openvino as ov

    float_model(parts)
    paths, post_training = (
        float_graphs(parts, folder, options, rewrites=options.rewrite),
        not parts.quantised,
    )
    graphs, largest = {}, 0
    for stem, path in paths.items():
        if parts.dtype.startswith("w") and post_training:
            quantise_file(path, "cpu", parts)
        code = (
            largest_code(path) if parts.activation_bits == 8 else 0
        )  # with 16 it computes in floats
        largest = max(largest, code)
        ir_file = path.with_suffix(".xml")
        ov.save_model(
            ov.convert_model(str(path)), str(ir_file), compress_to_fp16=parts.dtype == "fp16"
        )
        path.unlink()
        path.with_name(f"{path.name}.data").unlink(missing_ok=True)
        graphs[stem] = {
            "file": ir_file.name,
            "weights": f"{stem}.bin",
            "format": "OpenVINO IR 11",
            **({"largest_weight_code": code} if code else {}),
        }
    kind = {}
    if parts.dtype.startswith("w"):
        kind = {
            "scheme": "FakeQuantize",
            "activations": f"uint{parts.activation_bits}, per tensor",
            "weights": "int8, symmetric, per output channel",
        }
        if post_training:
            kind |= {
                "placement": "inputs and weights of convolutions and matrix products",
                "by": "onnxruntime, min-max",
            }
    return Exported(
        graphs,
        ("openvino", "onnx", "onnxruntime"),
        kind,
        notes=[OVERFLOW] if largest > REDUCED else [],
    )
