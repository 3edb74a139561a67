"""Scaled dot-product attention with quantised operands.

Both forms have all arguments of F.scaled_dot_product_attention, with the quantisers before them:
`roles` maps `q`, `k`, `v`, `scores` and `probs` to the quantiser of that tensor. They are written
in products that a runtime has integer kernels for.
"""

import math
from collections.abc import Mapping

import torch
from torch import nn

from compress.core.errors import UserError

CHUNK = (
    2**20
)  # scores that `attend_in_chunks` holds at once: 4 MiB of floats, which stay in a cache


def attend(
    roles: Mapping[str, nn.Module],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_,
) -> torch.Tensor:
    """Compute softmax(Q K^T * scale) V.

    Args:
        roles: Quantisers. A tensor whose role is absent stays in floating point.
        query: [..., rows, channels].
        key: [..., keys, channels].
        value: [..., keys, values].
        attn_mask: Summand of the scores, broadcastable to [..., rows, keys].
        dropout_p: Must be 0.
        is_causal: Must be False.
        scale: Factor of the scores, 1 / sqrt(channels) by default.

    Returns:
        [..., rows, values].

    Raises:
        UserError: Causal attention or dropout.
    """
    _refuse_variants(is_causal, dropout_p)
    unchanged = nn.Identity()
    gain = query.shape[-1] ** -0.5 if scale is None else scale
    # The factor goes into Q's scale: a product with a number between two products would keep
    # runtimes from multiplying integers.
    query = roles["q"](query, gain=gain) if "q" in roles else query * gain
    key = roles.get("k", unchanged)(key)
    value = roles.get("v", unchanged)(value)
    scores = roles.get("scores", unchanged)(query @ key.transpose(-2, -1))
    if attn_mask is not None:
        scores = scores + attn_mask
    return roles.get("probs", unchanged)(scores.softmax(dim=-1)) @ value


def attend_in_chunks(
    roles: Mapping[str, nn.Module],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_,
) -> torch.Tensor:
    """The same for 8 bits everywhere, with `CHUNK` scores at a time.

    What is rounded is exp(score - the row's greatest), which is 1 at most in every row. The product
    is divided by the sum of the rounded. Among thousands of keys, one grid for the probabilities
    themselves would lose the flat rows or the peaks.

    Args, Returns and Raises are those of `attend`, but that `q`, `k`, `v` and `probs` must all be
    in `roles`.
    """
    _refuse_variants(is_causal, dropout_p)
    gain = query.shape[-1] ** -0.5 if scale is None else scale
    key = roles["k"](key).transpose(-2, -1)
    value = roles["v"](value)
    rows = rows_of_chunk(*query.shape[:-1], key.shape[-1])
    parts = []
    masks = [None] * query.shape[-2] if attn_mask is None else attn_mask.split(rows, -2)
    # Without a mask there are more Nones than chunks, for the number of chunks may be traced.
    for part, mask in zip(query.split(rows, -2), masks, strict=False):
        scores = roles["q"](part, gain=gain) @ key
        if mask is not None:
            scores = scores + mask
        weights = roles["probs"]((scores - scores.amax(-1, keepdim=True)).exp())
        parts.append(weights @ value / weights.sum(-1, keepdim=True))
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts, -2)


def rows_of_chunk(*shape: int) -> int:
    """How many rows of scores [..., rows, keys] a chunk has.

    As many as make `CHUNK` numbers; all of them where a traced size is not known.
    """
    *front, rows, keys = shape
    if not all(isinstance(side, int) for side in shape):
        return rows
    return max(1, CHUNK // (math.prod(front) * keys))


def _refuse_variants(is_causal: bool, dropout_p: float) -> None:
    if is_causal or dropout_p:
        raise UserError(
            "causal attention and dropout have no quantised form; take placement compat "
            "without attention"
        )
