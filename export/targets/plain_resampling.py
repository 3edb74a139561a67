"""Bicubic enlargement as two matrix products.

Delegates for phones have no bicubic resampling, nor the gathers that converters take it apart into.
Every row and every column of a map is resampled by the same weights, so that a product with a
matrix does it, repeated edges included.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import _disable_current_modes

BICUBIC = "bicubic"
_interpolate = F.interpolate


@cache
def resampling_matrix(before: int, after: int, antialias: bool) -> torch.Tensor:
    """The weights of bicubic resampling of one axis.

    Args:
        before: The length of the axis.
        after: Its length afterwards.
        antialias: As torch's.

    Returns:
        float32 [1, before, after].
    """
    # torch.export traces with tensors that hold no values, and this is a constant of the graph.
    with _disable_current_modes():
        identity = torch.eye(before)[None, None]
        resampled = _interpolate(
            identity, (before, after), mode=BICUBIC, align_corners=False, antialias=antialias
        )
        return resampled[0].contiguous()


def resample(
    input: torch.Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> torch.Tensor:
    """interpolate of torch, whose bicubic mode is two products with matrices.

    Args:
        input: [B, C, h, w].
        size: As torch's.
        scale_factor: As torch's. One that does not give whole pixels is left to torch.
        mode: As torch's. Any other than bicubic is left to torch.
        align_corners: As torch's. With it, torch does it.
        recompute_scale_factor: As torch's.
        antialias: As torch's.
    """
    sides = None if mode != BICUBIC or align_corners else _sides(input, size, scale_factor)
    if sides is None:
        return _interpolate(
            input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias
        )
    x = _resample_last(input, sides[1], antialias).transpose(2, 3)
    return _resample_last(x, sides[0], antialias).transpose(2, 3)


def _sides(x: torch.Tensor, size: Any, scale_factor: Any) -> tuple[int, int] | None:
    """Height and width afterwards; None where torch's factor is not their ratio to those before."""
    if size is not None:
        return (size, size) if isinstance(size, int) else (size[0], size[1])
    factors = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * 2
    exact = [side * factor for side, factor in zip(x.shape[-2:], factors, strict=True)]
    if any(side != int(side) for side in exact):
        return None
    return int(exact[0]), int(exact[1])


def _resample_last(x: torch.Tensor, after: int, antialias: bool) -> torch.Tensor:
    """[B, C, h, w] -> [B, C, h, after]."""
    matrix = resampling_matrix(int(x.shape[-1]), after, antialias)
    rows = x.reshape(1, -1, x.shape[-1])
    return torch.bmm(rows, matrix if x.dtype == matrix.dtype else matrix.to(x.dtype)).reshape(
        *x.shape[:-1], after
    )
