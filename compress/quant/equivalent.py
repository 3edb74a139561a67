"""Learnable equivalent transformation (PassionSR's LET, section 3.3).

It moves range from activations to weights:

    f(x; W, b) = f((x - o) / s; W * s, b + f(o; W, 0))

with a scale s and an offset o per input channel. Where the layer's input comes from a norm or
another linear map, s and o fold into that one and cost nothing.
"""

import torch
import torch.nn.functional as F
from torch import nn

FLOOR = 1e-5


def initial_scale(
    act_max: torch.Tensor, weight_max: torch.Tensor, alpha: float = 0.3
) -> torch.Tensor:
    """Compute s = (max|x_c| / max|W_c|)^alpha, both [C] and bounded from below by 1e-5.

    Args:
        act_max: Greatest magnitude of every input channel, [C].
        weight_max: Greatest magnitude of the weights that read it, [C].
        alpha: How much of the range moves, in [0, 1].

    Returns:
        The scale s, [C].
    """
    return act_max.clamp(min=FLOOR) ** alpha / weight_max.clamp(min=FLOOR) ** alpha


def input_channel_max(weight: torch.Tensor) -> torch.Tensor:
    """max|W_c| over everything but the input channel: [out, in, ...] -> [in]."""
    return weight.abs().transpose(0, 1).flatten(1).amax(1)


def on_channels(values: torch.Tensor, x: torch.Tensor, conv: bool) -> torch.Tensor:
    """[C] -> broadcastable against `x`: axis 1 for maps (`conv`), the last for tokens."""
    if conv:
        return values.view(1, -1, *[1] * (x.ndim - 2))
    return values


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor,
    offset: torch.Tensor | None = None,
    **options,
) -> torch.Tensor:
    """Convolve the transformed input: the same function as without `scale` and `offset`.

    The response to the offset is a map, not a vector, because zero padding sees no offset.

    Args:
        x: [B, in, h, w].
        weight: [out, in, kh, kw].
        bias: [out] or None.
        scale: s, [in].
        offset: o, [in], or None.
        **options: Of `F.conv2d`: stride, padding, dilation, groups.

    Returns:
        [B, out, h', w'].
    """
    shifted = x if offset is None else x - on_channels(offset, x, True)
    y = F.conv2d(
        shifted / on_channels(scale, x, True),
        weight * on_channels(scale, weight, True),
        bias,
        **options,
    )
    if offset is None:
        return y
    constant = offset.view(1, -1, 1, 1).expand(1, -1, *x.shape[-2:])
    return y + F.conv2d(constant, weight, None, **options)


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor,
    offset: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `conv2d` for [..., in]. The released code has the offset's sign wrong: off by 2 W o."""
    shifted = x if offset is None else x - offset
    y = F.linear(shifted / scale, weight * scale, bias)
    if offset is None:
        return y
    return y + F.linear(offset, weight)


class Transform(nn.Module):
    """An equivalent transform, shared by all layers that read one tensor.

    Args:
        scale: s of every input channel, [in], above 0. Its logarithm is learned.
        offset: o of every input channel, [in], or None.
    """

    def __init__(self, scale: torch.Tensor, offset: torch.Tensor | None):
        super().__init__()
        self.log_scale = nn.Parameter(scale.log())
        self.offset: nn.Parameter | None = None
        if offset is not None:
            self.offset = nn.Parameter(offset.clone())

    @property
    def scale(self) -> torch.Tensor:
        """s, [in]."""
        return self.log_scale.exp()

    def apply_to(self, x: torch.Tensor, conv: bool = False) -> torch.Tensor:
        """Compute (x - o) / s over the channels of a map (`conv`) or of tokens."""
        shifted = x if self.offset is None else x - on_channels(self.offset, x, conv)
        return shifted / on_channels(self.scale, x, conv)
