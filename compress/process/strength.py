"""A knob from faithful to full: a result blended with the plain enlargement of its input.

    blend = strength * result + (1 - strength) * enlargement        on 8-bit pixels, rounded

At 1 it is the result, bit for bit; at 0 the bicubic enlargement, which invents nothing, and for
which no network runs. This module needs numpy alone, because an exported folder has a copy of it
in host/.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from .strips import ROWS, enlarge

FULL = 1.0
FAITHFUL = 0.0
# Pixels float32 [1, 3, h, w] in [0, 1], and the photograph's file -> the result's pixels.
Upscale = Callable[[np.ndarray, Path], np.ndarray]


def is_strength(value: float) -> bool:
    """Whether a number is from FAITHFUL to FULL; NaN is none."""
    return FAITHFUL <= value <= FULL


def blended(result: np.ndarray, lr: np.ndarray, strength: float, scale: int) -> np.ndarray:
    """A result between the enlargement of its input and itself.

    Args:
        result: uint8 [scale * h, scale * w, 3]; it is not changed.
        lr: The input, float32 [3, h, w] in [0, 1].
        strength: From 0, the enlargement, to 1, the result.
        scale: How many times larger the result is.

    Returns:
        uint8 of `result`'s shape; `result` itself at strength 1.

    Raises:
        ValueError: The sizes do not fit.
    """
    height, width = lr.shape[1] * scale, lr.shape[2] * scale
    if result.shape[:2] != (height, width):
        raise ValueError(f"a result of {result.shape} is not {scale} times {lr.shape}")
    if strength == FULL:
        return result
    mixed = np.empty_like(result)
    for top in range(0, height, ROWS):
        bottom = min(top + ROWS, height)
        plain = _bytes(enlarge(lr, scale, top, bottom))
        if strength != FAITHFUL:
            part = result[top:bottom] * np.float32(strength)
            part += plain * np.float32(1 - strength)
            plain = np.rint(part).astype(np.uint8)
        mixed[top:bottom] = plain
    return mixed


def enlarged(lr: np.ndarray, scale: int) -> np.ndarray:
    """The faithful end: the bicubic enlargement of float32 [3, h, w], uint8 [., ., 3]."""
    shape = (lr.shape[1] * scale, lr.shape[2] * scale, lr.shape[0])
    return blended(np.empty(shape, np.uint8), lr, FAITHFUL, scale)


def _bytes(image: np.ndarray) -> np.ndarray:
    """uint8 [rows, W, 3] of float32 [3, rows, W] in about [0, 1], clipped and rounded."""
    return np.rint(image.clip(0, 1) * np.float32(255)).astype(np.uint8).transpose(1, 2, 0)


def dialled(upscale: Upscale, strength: float, scale: int) -> Upscale:
    """`upscale` at a strength; itself at 1, and never called at 0.

    Args:
        upscale: Gives uint8 [scale * h, scale * w, 3].
        strength: From 0 to 1.
        scale: Its factor.
    """
    if strength == FULL:
        return upscale

    def blend(lr: np.ndarray, photograph: Path) -> np.ndarray:
        if strength == FAITHFUL:
            return enlarged(lr[0], scale)
        return blended(upscale(lr, photograph), lr[0], strength, scale)

    return blend
