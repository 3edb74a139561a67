"""Core ML programs (.mlpackage), float32, float16, or float16 with int8 weights. Converts anywhere, predicts on
macOS."""

import sys
from pathlib import Path

import torch

from compress.errors import UserError
from export.targets.parts import Exported, Options, Parts, example, float_model


@torch.no_grad()
def write(parts: Parts, folder: Path, options: Options) -> Exported:
    import coremltools as ct
    from coremltools.optimize.coreml import OpLinearQuantizerConfig, OptimizationConfig, linear_quantize_weights

    float_model(parts)
    if options.rewrite:
        raise UserError("rewrites work on ONNX graphs, and Core ML is made from torch; leave out --rewrite")
    graphs = {}
    precision = ct.precision.FLOAT32 if parts.dtype == "fp32" else ct.precision.FLOAT16
    for stem in parts.stems:
        source, result = parts.names(stem)
        x = example(parts, stem)
        traced = torch.jit.trace(parts.module(stem), x, check_trace=False)
        model = ct.convert(traced, convert_to="mlprogram", compute_precision=precision,
                           inputs=[ct.TensorType(name=source, shape=tuple(x.shape))], outputs=[ct.TensorType(name=result)],
                           minimum_deployment_target=ct.target.iOS16, skip_model_load=True)
        if parts.dtype == "w8":
            settings = OptimizationConfig(global_config=OpLinearQuantizerConfig(mode="linear_symmetric"))
            model = linear_quantize_weights(model, config=settings)
        model.save(str(folder / f"{stem}.mlpackage"))
        graphs[stem] = {"file": f"{stem}.mlpackage", "format": "Core ML program, iOS 16"}
    kind = {"by": "coremltools linear_quantize_weights", "weights": "int8, symmetric, per output channel",
            "activations": "float16", "placement": "weights only"} if parts.dtype == "w8" else {}
    notes = [] if sys.platform == "darwin" else ["converted, not run: Core ML predicts on macOS only"]
    return Exported(graphs, ("coremltools",), kind, runs=sys.platform == "darwin", notes=notes)
