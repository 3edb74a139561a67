"""Rounding to codes and back as operators of torch, so that a traced network shows them and a file
gets Q/DQ pairs.

They compute what torch's operators of these names in `quantized_decomposed` compute, to the bit;
that namespace is defined in a private module. Ours lie in `compress`: a second library in torch's
own namespace makes the process abort at its end.
"""

from collections.abc import Callable

import torch

NAMESPACE = "compress"
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
_LIMITS = "int quant_min, int quant_max, ScalarType dtype"
_SCALAR = "Tensor scale, Tensor zero_point"
_ROWS = "Tensor scales, Tensor zero_points, int axis"
_SCHEMAS = {
    "quantize_per_tensor": f"(Tensor input, {_SCALAR}, {_LIMITS}) -> Tensor",
    "dequantize_per_tensor": f"(Tensor input, {_SCALAR}, {_LIMITS}) -> Tensor",
    "quantize_per_channel": f"(Tensor input, {_ROWS}, {_LIMITS}) -> Tensor",
    "dequantize_per_channel": f"(Tensor input, {_ROWS}, {_LIMITS}) -> Tensor",
}


def _check(quant_min: int, quant_max: int, dtype: torch.dtype) -> None:
    limits = torch.iinfo(dtype)
    if not limits.min <= quant_min <= quant_max <= limits.max:
        raise ValueError(f"codes from {quant_min} to {quant_max} do not fit into {dtype}")


def _quantize_per_tensor(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    _check(quant_min, quant_max, dtype)
    codes = x.float() * (1.0 / scale.item())
    # In the memory of the product: fresh memory for every step took half of the time.
    codes.round_().add_(zero_point.item()).clamp_(quant_min, quant_max)
    return codes.to(dtype)


def _dequantize_per_tensor(
    codes: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    if codes.dtype != dtype:
        raise ValueError(f"codes are {codes.dtype}, not {dtype}")
    return codes.float().sub_(zero_point.item()).mul_(scale.item())


def _rows(values: torch.Tensor, like: torch.Tensor, axis: int) -> torch.Tensor:
    """One value a row, to be broadcast along `axis` of `like`."""
    sides = [1] * like.dim()
    sides[axis] = values.shape[0]
    return values.view(sides)


def _quantize_per_channel(
    x: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor,
    axis: int,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    _check(quant_min, quant_max, dtype)
    codes = torch.round(x.float() * (1.0 / _rows(scales, x, axis))) + _rows(zero_points, x, axis)
    return torch.clamp(codes, quant_min, quant_max).to(dtype)


def _dequantize_per_channel(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor,
    axis: int,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    if codes.dtype != dtype:
        raise ValueError(f"codes are {codes.dtype}, not {dtype}")
    return (codes - _rows(zero_points, codes, axis)) * _rows(scales, codes, axis)


def _shape_of_codes(x: torch.Tensor, *parameters) -> torch.Tensor:
    return torch.empty_like(x, dtype=parameters[-1])


def _shape_of_values(codes: torch.Tensor, *parameters) -> torch.Tensor:
    return torch.empty_like(codes, dtype=torch.float32)


def _register(name: str, compute: Callable, shape: Callable) -> None:
    _LIBRARY.define(f"{name}{_SCHEMAS[name]}")
    _LIBRARY.impl(name, compute, "CompositeExplicitAutograd")
    _LIBRARY.impl(name, shape, "Meta")


_register("quantize_per_tensor", _quantize_per_tensor, _shape_of_codes)
_register("dequantize_per_tensor", _dequantize_per_tensor, _shape_of_values)
_register("quantize_per_channel", _quantize_per_channel, _shape_of_codes)
_register("dequantize_per_channel", _dequantize_per_channel, _shape_of_values)
quantize_per_tensor = torch.ops.compress.quantize_per_tensor.default
dequantize_per_tensor = torch.ops.compress.dequantize_per_tensor.default
quantize_per_channel = torch.ops.compress.quantize_per_channel.default
dequantize_per_channel = torch.ops.compress.dequantize_per_channel.default
