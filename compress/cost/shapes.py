"""Functions that a run on the meta device need not compute: only their results' shapes are known.

torch decomposes them in Python there, which takes milliseconds a call and most of a plan's time.
None of them multiplies as a layer does, so no count misses anything.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F


def call_on_meta(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """What `func` returns; on the meta device, where it is known without a call, from its shape."""
    shape = _SHAPES.get(func)
    if shape is not None and args and args[0].is_meta:
        sides = shape(*args, **kwargs)
        if sides is not None:
            return args[0].new_empty(sides)
    return func(*args, **kwargs)


def _same(x: torch.Tensor, *_args: Any, **_kwargs: Any) -> torch.Size:
    """The shape of a normalised map."""
    return x.shape


def _enlarged(
    x: torch.Tensor,
    size: object = None,
    scale_factor: object = None,
    mode: str = "nearest",
    **_kwargs: Any,
) -> list[int] | None:
    """The shape of a bicubic enlargement by a whole factor; None for any other call."""
    if mode != "bicubic" or size is not None or not isinstance(scale_factor, int):
        return None
    return [*x.shape[:2], *(side * scale_factor for side in x.shape[2:])]


_SHAPES: dict[Callable, Callable[..., Any]] = {
    F.group_norm: _same,
    F.layer_norm: _same,
    F.interpolate: _enlarged,
}
