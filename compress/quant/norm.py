"""GroupNorm in a form that suits the integer layers around it."""

import torch
import torch.nn.functional as F

LEAST_ROWS = 64  # that a map keeps when moments are taken from every n-th row


def group_norm(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *,
    stride: int = 1,
    rows: bool = False,
) -> torch.Tensor:
    """Compute F.group_norm of a map from moments, as one factor and one summand per channel.

    Integer convolutions run with channels last. Reductions over positions and products with vectors
    stay in that layout; an InstanceNormalization would have the map transposed twice.

    Args:
        x: [B, C, h, w]. A tensor of another rank goes to F.group_norm.
        num_groups: As of F.group_norm.
        weight: [C] or None.
        bias: [C] or None.
        eps: Added to the variance.
        stride: Of the positions that the moments are taken from. Above 1 this is no longer the same
            function.
        rows: Whether `stride` counts rows only, as long as `LEAST_ROWS` remain; otherwise it counts
            rows and columns.

    Returns:
        In the shape of `x`.
    """
    if x.ndim != 4:
        return F.group_norm(x, num_groups, weight, bias, eps)
    sampled = _sample(x, stride, rows)
    # Along rows, then over rows. A runtime that adds float32 numbers one after the other loses less
    # so. Of a flat map, whose variance is a small difference of large numbers, nothing else would
    # be left.
    mean = sampled.mean(3, keepdim=True).mean(2, keepdim=True)  # [B, C, 1, 1]
    square = (sampled * sampled).mean(3, keepdim=True).mean(2, keepdim=True)
    per_group = x.shape[1] // num_groups

    def of_groups(values: torch.Tensor) -> torch.Tensor:
        """[B, C, 1, 1] -> [B, groups, 1, 1]."""
        return values.view(x.shape[0], num_groups, -1).mean(2)[..., None, None]

    def of_channels(values: torch.Tensor) -> torch.Tensor:
        """[B, groups, 1, 1] -> [B, C, 1, 1]."""
        return values.expand(-1, -1, per_group, -1).reshape(x.shape[0], -1, 1, 1)

    mean = of_groups(mean)
    square = of_groups(square)
    inverse = of_channels((square - mean * mean).clamp(min=0).add(eps).rsqrt())
    factor = inverse if weight is None else inverse * weight.view(1, -1, 1, 1)
    summand = -of_channels(mean) * factor
    return x * factor + (summand if bias is None else summand + bias.view(1, -1, 1, 1))


def _sample(x: torch.Tensor, stride: int, rows: bool) -> torch.Tensor:
    """The positions of [B, C, h, w] that moments are taken from."""
    if rows:
        return x[:, :, :: max(1, min(stride, x.shape[2] // LEAST_ROWS))]
    if stride > 1:
        return F.max_pool2d(x, 1, stride)
    return x
