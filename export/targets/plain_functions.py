"""Functions of torch and transformers in the few operators that phones' delegates take.

Neither XNNPACK nor Vulkan has all that torch takes attention apart into. LiteRT's delegate for GPUs
has no broadcast, which repetition becomes, and no cut-off at 0 and 1 in one.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from export.targets.plain_resampling import resample

_attention = F.scaled_dot_product_attention
_clamp = torch.Tensor.clamp
_repeat = torch.Tensor.repeat


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """scaled_dot_product_attention by two products and a softmax.

    Args:
        query: [..., N, D]; so are the key and the value, of M rows.
        attn_mask: With one, as with is_causal or enable_gqa, it is torch's own.
        dropout_p: As torch's.
        is_causal: As torch's.
        scale: Of the scores, by default D ** -0.5.
        enable_gqa: As torch's.
    """
    if attn_mask is not None or is_causal or enable_gqa or dropout_p:
        return _attention(
            query,
            key,
            value,
            attn_mask,
            dropout_p,
            is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
        )
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    q, k, v = (x.reshape(-1, *x.shape[-2:]) for x in (query, key, value))
    weights = torch.bmm(q * scale, k.transpose(1, 2)).softmax(dim=-1)
    return torch.bmm(weights, v).reshape(*query.shape[:-1], value.shape[-1])


def join(x: torch.Tensor, *counts: Any) -> torch.Tensor:
    """Tensor.repeat by joining copies.

    Args:
        x: Any tensor.
        counts: Of copies by axis, as torch takes them. More than there are axes are left to torch.
    """
    sizes = counts[0] if len(counts) == 1 and not isinstance(counts[0], int) else counts
    if len(sizes) != x.ndim or any(not isinstance(size, int) for size in sizes):
        return _repeat(x, *counts)
    for axis, size in enumerate(sizes):
        if size != 1:
            x = torch.cat([x] * size, dim=axis)
    return x


def limit(x: torch.Tensor, min: Any = None, max: Any = None) -> torch.Tensor:
    """Tensor.clamp of which limits of 0 and 1 are two rectifications.

    LiteRT's converter makes one operator of a least and a greatest value, in either order.

    Args:
        x: Any tensor.
        min: As torch's.
        max: As torch's.
    """
    if (min, max) != (0, 1):
        return _clamp(x, min, max)
    return F.relu(x) - F.relu(x - 1)


def cut_windows(x: torch.Tensor, window: int) -> torch.Tensor:
    """[B, h, w, C] -> [B * windows, window, window, C], by tensors of four axes.

    It stands for `window_partition` of transformers' Swin, which has six.
    """
    batch, height, width, channels = x.shape
    rows = x.reshape(batch * height // window, window, width // window, window * channels)
    return rows.transpose(1, 2).reshape(-1, window, window, channels)


def join_windows(x: torch.Tensor, window: int, height: int, width: int) -> torch.Tensor:
    """The inverse of `cut_windows`, for `window_reverse` of transformers' Swin.

    Args:
        x: [B * windows, window, window, C].
        window: Its side.
        height: Of the map.
        width: Of the map.
    """
    channels = x.shape[-1]
    rows = x.reshape(-1, width // window, window, window * channels).transpose(1, 2)
    return rows.reshape(-1, height, width, channels)


SWIN = "transformers.models.swin.modeling_swin"  # which takes a second to import
# Name -> where each function is, what it is called there, and what takes its place.
PLAIN: dict[str, tuple[tuple[Any, str, Any], ...]] = {
    "attention": ((F, "scaled_dot_product_attention", attend),),
    "resampling": ((F, "interpolate", resample),),
    "repetition": ((torch.Tensor, "repeat", join),),
    "limits": ((torch.Tensor, "clamp", limit),),
    "windows": ((SWIN, "window_partition", cut_windows), (SWIN, "window_reverse", join_windows)),
}


@contextmanager
def plain_functions(*names: str) -> Iterator[None]:
    """Within, functions of torch are plain. So are those of a module that was imported before.

    Args:
        names: Of PLAIN.
    """
    with ExitStack() as stack:
        for place, function, plain in (patch for name in names for patch in PLAIN[name]):
            place = sys.modules.get(place) if isinstance(place, str) else place
            if place is not None:
                stack.enter_context(mock.patch.object(place, function, plain))
        yield
