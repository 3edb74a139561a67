"""Functions of torch in the few operators that phones' delegates take.

Neither XNNPACK nor Vulkan has all that torch takes attention apart into. LiteRT's delegate for GPUs
has no broadcast, which repetition becomes, and no cut-off at 0 and 1 in one.
"""

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


# Name -> where torch has the function, what it is called there, and what takes its place.
PLAIN: dict[str, tuple[Any, str, Any]] = {
    "attention": (F, "scaled_dot_product_attention", attend),
    "resampling": (F, "interpolate", resample),
    "repetition": (torch.Tensor, "repeat", join),
    "limits": (torch.Tensor, "clamp", limit),
}


@contextmanager
def plain_functions(*names: str) -> Iterator[None]:
    """Within, functions of torch are plain.

    Args:
        names: Of PLAIN.
    """
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch.object(*PLAIN[name]))
        yield
