"""OpenVINO IR: <stem>.xml and .bin, float32, float16 weights, or Q/DQ pairs that its CPU plugin computes in
integers."""

from pathlib import Path

from export.targets.onnx_file import float_graphs, quantise_file
from export.targets.parts import Exported, Options, Parts, float_model


def write(parts: Parts, folder: Path, options: Options) -> Exported:
    import openvino as ov

    float_model(parts)
    paths, post_training = float_graphs(parts, folder, options, rewrites=options.rewrite), not parts.quantised
    graphs = {}
    for stem, path in paths.items():
        if parts.dtype.startswith("w") and post_training:
            quantise_file(path, "cpu", parts)
        ir_file = path.with_suffix(".xml")
        ov.save_model(ov.convert_model(str(path)), str(ir_file), compress_to_fp16=parts.dtype == "fp16")
        path.unlink()
        path.with_name(f"{path.name}.data").unlink(missing_ok=True)
        graphs[stem] = {"file": ir_file.name, "weights": f"{stem}.bin", "format": "OpenVINO IR 11"}
    kind = {}
    if parts.dtype.startswith("w"):
        kind = {"scheme": "FakeQuantize", "activations": f"uint{parts.activation_bits}, per tensor",
                "weights": "int8, symmetric, per output channel"}
        if post_training:
            kind |= {"placement": "inputs and weights of convolutions and matrix products", "by": "onnxruntime, min-max"}
    return Exported(graphs, ("openvino", "onnx", "onnxruntime"), kind)
