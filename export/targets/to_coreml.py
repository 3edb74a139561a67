"""Core ML programs (.mlpackage), float32, float16, or float16 with int8 weights. Converts anywhere, predicts on
macOS."""

import sys
from pathlib import Path

import numpy as np
import torch

from compress.core.errors import UserError
from compress.process.strips import phases
from export.targets.hush import hushed
from export.targets.parts import Exported, Options, Parts, example, float_model

PRODUCTS = ("conv", "conv_transpose", "linear", "matmul")


def chooses(op) -> bool:
    """Whether a MIL operator does nothing but choose an index, from the last product on, as the search of a vector
    quantiser's nearest code does: with few bits it chooses another one, which no bit of what follows can mend."""
    if op.op_type in ("reduce_argmin", "reduce_argmax"):
        return True
    readers = [reader for value in op.outputs for reader in value.child_ops]
    return bool(readers) and all(
        reader.op_type not in PRODUCTS and chooses(reader) for reader in readers
    )


def bicubic_kernels(scale: int, channels: int) -> np.ndarray:
    """float32 [channels * scale^2, 1, 5, 5], for a convolution in `channels` groups and a pixel shuffle behind it."""
    rows = np.array(phases(scale))
    kernels = np.einsum("yi,xj->yxij", rows, rows).reshape(scale * scale, 1, 5, 5)
    return np.tile(kernels, (channels, 1, 1, 1)).astype(np.float32)


def register_operators() -> None:
    """Teach coremltools torch's bicubic enlargement by a whole factor, which Core ML has not: every phase of the output
    is a 5x5 convolution of the input with its edges repeated, and a pixel shuffle puts them in place. And `int` of an
    array of one number, where coremltools 9.0 takes what numpy 2.4 refuses."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil import register_torch_op
    from coremltools.converters.mil.frontend.torch import ops

    general = ops._int

    @register_torch_op(torch_alias=["int"], override=True)
    def _int(context, node):
        x = context[node.inputs[0]]
        if isinstance(x.val, np.ndarray) and x.val.size == 1:
            context.add(mb.const(val=int(x.val.ravel()[0]), name=node.name))
        else:
            general(context, node)

    @register_torch_op(override=True)
    def upsample_bicubic2d(context, node):
        x, aligned = context[node.inputs[0]], context[node.inputs[2]].val
        factors = context[node.inputs[-1]]
        scale = (
            {float(v) for v in np.ravel(factors.val)}
            if factors is not None and factors.val is not None
            else set()
        )
        if aligned or len(scale) != 1 or not min(scale).is_integer():
            raise UserError(
                "Core ML gets bicubic enlargement by one whole factor only; choose another target"
            )
        factor, channels = int(scale.pop()), x.shape[1]
        padded = mb.pad(x=x, pad=[0, 0, 0, 0, 2, 2, 2, 2], mode="replicate", constant_val=0.0)
        found = mb.conv(
            x=padded, weight=bicubic_kernels(factor, channels), groups=channels, pad_type="valid"
        )
        context.add(mb.pixel_shuffle(x=found, upscale_factor=factor, name=node.name))


@torch.no_grad()
def write(parts: Parts, folder: Path, options: Options) -> Exported:
    with hushed():  # off macOS it reports what it cannot load
        import coremltools as ct
        from coremltools.optimize.coreml import (
            OpLinearQuantizerConfig,
            OptimizationConfig,
            linear_quantize_weights,
        )

    float_model(parts)
    if options.rewrite:
        raise UserError(
            "rewrites work on ONNX graphs, and Core ML is made from torch; leave out --rewrite"
        )
    graphs = {}
    precision = (
        ct.precision.FLOAT32
        if parts.dtype == "fp32"
        else ct.transform.FP16ComputePrecision(op_selector=lambda op: not chooses(op))
    )
    register_operators()
    for stem in parts.stems:
        source, result = parts.names(stem)
        x = example(parts, stem)
        with hushed():
            traced = torch.jit.trace(parts.module(stem), x, check_trace=False)
            model = ct.convert(
                traced,
                convert_to="mlprogram",
                compute_precision=precision,
                inputs=[ct.TensorType(name=source, shape=tuple(x.shape))],
                outputs=[ct.TensorType(name=result)],
                minimum_deployment_target=ct.target.iOS16,
                skip_model_load=True,
            )
            if parts.dtype == "w8":
                eight = OpLinearQuantizerConfig(mode="linear_symmetric")
                searches = [
                    op.name for op in model._mil_program.functions["main"].operations if chooses(op)
                ]
                settings = OptimizationConfig(
                    op_type_configs=dict.fromkeys(PRODUCTS, eight),
                    op_name_configs=dict.fromkeys(searches),
                )
                model = linear_quantize_weights(model, config=settings)
        model.save(str(folder / f"{stem}.mlpackage"))
        graphs[stem] = {"file": f"{stem}.mlpackage", "format": "Core ML program, iOS 16"}
    kind = (
        {
            "by": "coremltools linear_quantize_weights",
            "weights": "int8, symmetric, per output channel",
            "activations": "float16",
            "placement": "weights only",
        }
        if parts.dtype == "w8"
        else {}
    )
    notes = (
        [] if sys.platform == "darwin" else ["converted, not run: Core ML predicts on macOS only"]
    )
    return Exported(graphs, ("coremltools",), kind, runs=sys.platform == "darwin", notes=notes)
