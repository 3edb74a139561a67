"""Translations of torch operators that the exporter lacks or writes in a slow form: a table for `torch.onnx.export`.

`op` writes the operators of opset 18; the exporter converts the finished graph to the opset that was asked for.
"""

import numpy as np
import torch
from onnxscript import ir
from onnxscript import opset18 as op
from onnxscript.function_libs.torch_lib.ops.nn import aten_upsample_bicubic2d_vec

from compress.quant import operators
from export.graphs import packed as stored


def _constant(values: np.ndarray) -> ir.Value:
    return op.Constant(value=ir.tensor(values))


def _parameters(scale: ir.Value, zero_point: ir.Value, dtype: int) -> tuple[ir.Value, ir.Value]:
    """Casts on buffers, which the exporter folds: a float32 scale and a zero point of the codes' type."""
    return op.Cast(scale, to=ir.DataType.FLOAT), op.Cast(zero_point, to=dtype)


def quantize_per_tensor(
    x: ir.Value, scale: ir.Value, zero_point: ir.Value, qmin: int, qmax: int, dtype: int
) -> ir.Value:
    """`quantize_per_tensor` of compress/quant/operators.py."""
    return _within(op.QuantizeLinear(x, *_parameters(scale, zero_point, dtype)), qmin, qmax, dtype)


def _within(codes: ir.Value, qmin: int, qmax: int, dtype: int) -> ir.Value:
    """Codes clipped to limits that are narrower than those of their type."""
    limits = np.iinfo(ir.DataType(dtype).numpy())
    if (qmin, qmax) == (limits.min, limits.max):
        return codes
    # QuantizeLinear saturates at the limits of the type and knows no narrower ones.
    low, high = (np.array(limit, dtype=limits.dtype) for limit in (qmin, qmax))
    return op.Clip(codes, _constant(low), _constant(high))


def dequantize_per_tensor(
    codes: ir.Value,
    scale: ir.Value,
    zero_point: ir.Value,
    qmin: int,
    qmax: int,
    dtype: int,
    out_dtype: int = -1,
) -> ir.Value:
    """`dequantize_per_tensor` of compress/quant/operators.py, to float32 or `out_dtype`."""
    x = op.DequantizeLinear(codes, *_parameters(scale, zero_point, dtype))
    return x if out_dtype in (-1, None) else op.Cast(x, to=out_dtype)


def dequantize_per_channel(
    codes: ir.Value,
    scales: ir.Value,
    zero_points: ir.Value,
    axis: int,
    qmin: int,
    qmax: int,
    dtype: int,
) -> ir.Value:
    """`dequantize_per_channel` of compress/quant/operators.py, to float32."""
    return op.DequantizeLinear(codes, *_parameters(scales, zero_points, dtype), axis=axis)


def quantize_per_channel(
    x: ir.Value,
    scales: ir.Value,
    zero_points: ir.Value,
    axis: int,
    qmin: int,
    qmax: int,
    dtype: int,
) -> ir.Value:
    """`quantize_per_channel` of compress/quant/operators.py."""
    codes = op.QuantizeLinear(x, *_parameters(scales, zero_points, dtype), axis=axis)
    return _within(codes, qmin, qmax, dtype)


def bicubic_taps(scale: int) -> np.ndarray:
    """Keys' cubic with a = -0.75, as torch has it: float64 [scale, 5], one row per phase of the output.

    Output pixel i * scale + p lies at source position i + (p + 0.5) / scale - 0.5; the taps weigh i-2 ... i+2.
    """
    a = -0.75

    def cubic(t: float) -> float:
        t = abs(t)
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0

    return np.array(
        [[cubic(tap - 2 - ((p + 0.5) / scale - 0.5)) for tap in range(5)] for p in range(scale)]
    )


def upsample_bicubic(
    x: ir.Value,
    output_size: list[int] | None,
    align_corners: bool,
    scale_factors: list[float] | None = None,
) -> ir.Value:
    """Bicubic enlargement by an integer as pad, convolution and depth-to-space, exactly.

    onnxruntime's cubic Resize is slow (a third of the nano encoder's time), and mobile delegates lack it.
    """
    factors = set(scale_factors or ())
    if align_corners or len(factors) != 1 or not float(next(iter(factors))).is_integer():
        return aten_upsample_bicubic2d_vec(x, output_size, align_corners, scale_factors)
    scale, channels = int(factors.pop()), int(x.shape[1])
    taps = bicubic_taps(scale)
    kernel = np.einsum("pi,qj->pqij", taps, taps).reshape(scale * scale, 1, 5, 5)
    kernel = np.tile(kernel, (channels, 1, 1, 1)).astype(
        np.float32
    )  # [channels * scale^2, 1, 5, 5]
    padded = op.Pad(x, _constant(np.array([0, 0, 2, 2, 0, 0, 2, 2])), mode="edge")
    # [B, channels * scale^2, h, w]. Defaults are spelled out: some runtimes do not know them.
    phases = op.Conv(
        padded,
        _constant(kernel),
        group=channels,
        kernel_shape=[5, 5],
        strides=[1, 1],
        pads=[0, 0, 0, 0],
        dilations=[1, 1],
    )
    return op.DepthToSpace(phases, blocksize=scale, mode="CRD")


def drop_unit_factors(model: ir.Model) -> None:
    """Take out products with a vector of ones: the factor per channel of a layer that gained nothing by one."""
    for node in list(model.graph):
        if node.op_type != "Mul" or node.outputs[0] in model.graph.outputs:
            continue
        for factor, other in (node.inputs, node.inputs[::-1]):
            constant = factor.const_value if factor is not None else None
            if (
                constant is None
                or other is None
                or other.shape is None
                or len(other.shape) < len(constant.shape)
            ):
                continue
            fits = all(
                c in (1, o)
                for c, o in zip(reversed(constant.shape), reversed(other.shape), strict=False)
            )
            if (
                fits
                and constant.size == max(constant.shape, default=0) > 1
                and (constant.numpy() == 1).all()
            ):
                ir.convenience.replace_all_uses_with(node.outputs[0], other)
                model.graph.remove(node, safe=True)
                break


TABLE = {
    **stored.TABLE,
    operators.quantize_per_tensor: quantize_per_tensor,
    operators.dequantize_per_tensor: dequantize_per_tensor,
    operators.quantize_per_channel: quantize_per_channel,
    operators.dequantize_per_channel: dequantize_per_channel,
    torch.ops.aten.upsample_bicubic2d.vec: upsample_bicubic,
}
if hasattr(
    torch.ops.quantized_decomposed, "quantize_per_tensor"
):  # another package loaded torch's own
    TABLE |= {
        torch.ops.quantized_decomposed.quantize_per_tensor.tensor: quantize_per_tensor,
        torch.ops.quantized_decomposed.dequantize_per_tensor.tensor: dequantize_per_tensor,
    }
