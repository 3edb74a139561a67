"""Functions that a run on the meta device need not compute: only their results' shapes are known.

torch decomposes them in Python there, which takes up to a millisecond a call and most of a plan's
time. Those that multiply, F.linear and attention, are counted by their arguments
(compress/cost/count.py).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

Sides = Sequence[int]


def known_shape(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Sides | None:
    """The shape of what `func` makes of a first tensor on the meta device.

    Its type is that of the first tensor. None: only a call tells.
    """
    shape = _SHAPES.get(func)
    if shape is None or not args or not isinstance(args[0], torch.Tensor) or not args[0].is_meta:
        return None
    return shape(*args, **kwargs)


def call_on_meta(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """What `func` returns; on the meta device, where it is known without a call, from its shape."""
    sides = known_shape(func, args, kwargs)
    if sides is None:
        return func(*args, **kwargs)
    return args[0].new_empty(sides)


class ShapesAlone(TorchFunctionMode):
    """Within, every function of torch is called by `call_on_meta`."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Call a function."""
        return call_on_meta(func, args, kwargs or {})


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


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: object = None) -> list[int]:
    """The shape of a linear layer's result."""
    return [*x.shape[:-1], weight.shape[0]]


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_args: Any, **_kwargs: Any
) -> list[int] | None:
    """The shape of what attention makes; None where heads are shared or missing."""
    if query.ndim != 4 or not query.shape[:2] == key.shape[:2] == value.shape[:2]:
        return None
    return [*query.shape[:-1], value.shape[-1]]


def _arithmetic(x: torch.Tensor, other: object, **kwargs: Any) -> torch.Size | None:
    """The shape of a sum or product of floats of one type; None for any other call."""
    if kwargs or not x.is_floating_point():
        return None
    if isinstance(other, (int, float)):
        return x.shape
    if not isinstance(other, torch.Tensor) or other.dtype != x.dtype or not other.is_meta:
        return None
    return x.shape if x.shape == other.shape else torch.broadcast_shapes(x.shape, other.shape)


def _mean(
    x: torch.Tensor, dim: object = None, keepdim: bool = False, **kwargs: Any
) -> list[int] | None:
    """The shape of a mean of floats over axes; None for that of all values."""
    axes = (dim,) if isinstance(dim, int) else dim
    if kwargs or not axes or not isinstance(axes, (tuple, list)) or not x.is_floating_point():
        return None
    if any(not isinstance(axis, int) or not -x.ndim <= axis < x.ndim for axis in axes):
        return None
    gone = {axis % x.ndim for axis in axes}
    if len(gone) < len(axes):
        return None
    sides = [1 if axis in gone else side for axis, side in enumerate(x.shape)]
    return sides if keepdim else [side for axis, side in enumerate(x.shape) if axis not in gone]


_SHAPES: dict[Callable, Callable[..., Sides | None]] = {
    F.group_norm: _same,
    F.layer_norm: _same,
    F.interpolate: _enlarged,
    F.gelu: _same,
    F.silu: _same,
    torch.prelu: _same,
    torch.abs: _same,
    torch.Tensor.abs: _same,
    torch.mean: _mean,
    torch.Tensor.mean: _mean,
    F.linear: _linear,
    F.scaled_dot_product_attention: _attention,
    torch.Tensor.add: _arithmetic,
    torch.Tensor.sub: _arithmetic,
    torch.Tensor.mul: _arithmetic,
    torch.Tensor.div: _arithmetic,
    torch.add: _arithmetic,
    torch.sub: _arithmetic,
    torch.mul: _arithmetic,
    torch.div: _arithmetic,
}
