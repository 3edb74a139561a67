"""Translations of torch operators that the exporter lacks or writes in a slow form.

TABLE is for `torch.onnx.export`. `op` writes the operators of opset 18; the exporter converts the
finished graph to the opset that was asked for.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from onnxscript import ir, opset18
from onnxscript.function_libs.torch_lib.ops.nn import aten_upsample_bicubic2d_vec

from compress.quant import operators
from export.graphs import packed as stored
from export.graphs.edit import nodes_of, operand

# onnxscript annotates its operators for scripts, where values have ONNX's types. A translation
# calls them with values of the graph, which the annotations do not say.
op: Any = opset18
CUBIC = -0.75  # the parameter of Keys' cubic that torch has
REACH = 2  # pixels on each side that the cubic looks at
TAPS = 2 * REACH + 1


def _constant(values: np.ndarray) -> ir.Value:
    return op.Constant(value=ir.tensor(values))


def _parameters(scale: ir.Value, zero_point: ir.Value, dtype: int) -> tuple[ir.Value, ir.Value]:
    """A float32 scale and a zero point of the codes' type: casts on buffers, which are folded."""
    return op.Cast(scale, to=ir.DataType.FLOAT), op.Cast(zero_point, to=dtype)


def quantize_per_tensor(
    x: ir.Value, scale: ir.Value, zero_point: ir.Value, qmin: int, qmax: int, dtype: int
) -> ir.Value:
    """`quantize_per_tensor` of compress/quant/operators.py."""
    codes = op.QuantizeLinear(x, *_parameters(scale, zero_point, dtype))
    return _within(codes, qmin, qmax, dtype)


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
    if out_dtype in (-1, None):
        return x
    return op.Cast(x, to=out_dtype)


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


def _cubic(t: float) -> float:
    """Keys' cubic at a distance of t pixels."""
    a = CUBIC
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    if t < REACH:
        return a * (t**3 - 5 * t**2 + 8 * t - 4)
    return 0.0


def bicubic_taps(scale: int) -> np.ndarray:
    """Keys' cubic with a = -0.75, as torch has it.

    Output pixel i * scale + p lies at source position i + (p + 0.5) / scale - 0.5; the taps weigh
    i-2 ... i+2.

    Source: R. Keys, "Cubic convolution interpolation for digital image processing", 1981.

    Args:
        scale: The factor of enlargement.

    Returns:
        float64 [scale, 5], one row per phase of the output.
    """
    taps = np.zeros((scale, TAPS))
    for p in range(scale):
        position = (p + 0.5) / scale - 0.5
        for tap in range(TAPS):
            taps[p, tap] = _cubic(tap - REACH - position)
    return taps


def upsample_bicubic(
    x: ir.Value,
    output_size: list[int] | None,
    align_corners: bool,
    scale_factors: list[float] | None = None,
) -> ir.Value:
    """Bicubic enlargement by an integer as pad, convolution and depth-to-space, exactly.

    onnxruntime's cubic Resize takes a third of the nano encoder's time. Mobile delegates lack it.
    """
    factors = set(scale_factors or ())
    if align_corners or len(factors) != 1 or not float(next(iter(factors))).is_integer():
        return aten_upsample_bicubic2d_vec(x, output_size, align_corners, scale_factors)
    sides = x.shape
    if sides is None or not isinstance(sides[1], int):
        raise ValueError("the channels of the enlarged tensor are not known")
    scale = int(factors.pop())
    channels = sides[1]
    taps = bicubic_taps(scale)
    kernel = np.einsum("pi,qj->pqij", taps, taps).reshape(scale * scale, 1, TAPS, TAPS)
    # [channels * scale^2, 1, 5, 5]
    kernel = np.tile(kernel, (channels, 1, 1, 1)).astype(np.float32)
    padded = op.Pad(x, _constant(np.array([0, 0, 2, 2, 0, 0, 2, 2])), mode="edge")
    # [B, channels * scale^2, h, w]. Defaults are spelled out: some runtimes do not know them.
    phases = op.Conv(
        padded,
        _constant(kernel),
        group=channels,
        kernel_shape=[TAPS, TAPS],
        strides=[1, 1],
        pads=[0, 0, 0, 0],
        dilations=[1, 1],
    )
    return op.DepthToSpace(phases, blocksize=scale, mode="CRD")


def drop_unit_factors(model: ir.Model) -> None:
    """Take out products with a vector of ones: factors per channel that change nothing."""
    for node in nodes_of(model.graph, "Mul"):
        if node.outputs[0] in model.graph.outputs:
            continue
        a = operand(node, 0)
        b = operand(node, 1)
        for factor, other in ((a, b), (b, a)):
            if _is_unit_factor(factor, other):
                ir.convenience.replace_all_uses_with(node.outputs[0], other)
                model.graph.remove(node, safe=True)
                break


def _is_unit_factor(factor: ir.Value, other: ir.Value) -> bool:
    """Whether `factor` is a constant vector of ones that `other` need not be broadcast for."""
    if factor.const_value is None or other.shape is None:
        return False
    ones = factor.const_value.numpy()
    if len(other.shape) < ones.ndim or not _is_vector(ones.shape):
        return False
    behind = list(other.shape)[len(other.shape) - ones.ndim :]
    fits = all(mine in (1, theirs) for mine, theirs in zip(ones.shape, behind, strict=True))
    return fits and bool((ones == 1).all())


def _is_vector(sides: Sequence[int]) -> bool:
    """Whether one side has all elements, and more than one."""
    return int(np.prod(sides)) == max(sides, default=0) > 1


TABLE: dict[Callable[..., Any], Callable[..., Any]] = {
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
