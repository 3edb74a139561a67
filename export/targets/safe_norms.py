"""Norms whose squares and sums stay within float16, for GPUs that compute in it.

A norm squares what it gets less its mean, and adds up a whole map. A norm does not see the scale of
what comes in: N_eps(x / s) with eps / s^2 is N_eps(x). s is a power of two, chosen on calibration
images, and sums are taken along one axis after the other.
"""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

HALF_MAX = 65504.0  # the greatest number of float16
MARGIN = 4.0  # of a sum of squares to it, for images that were not seen
MAP = 4  # axes of a feature map


class SafeGroupNorm(nn.Module):
    """nn.GroupNorm of a map that is divided by a power of two first.

    Args:
        norm: Whose weights are copied.
        by: The power of two.
    """

    gain: torch.Tensor
    shift: torch.Tensor

    def __init__(self, norm: nn.GroupNorm, by: float):
        super().__init__()
        self.groups = norm.num_groups
        self.by = by
        self.eps = norm.eps / by**2
        channels = norm.num_channels
        gain = torch.ones(channels) if norm.weight is None else norm.weight.detach()
        shift = torch.zeros(channels) if norm.bias is None else norm.bias.detach()
        self.register_buffer("gain", gain[None, :, None, None].clone())
        self.register_buffer("shift", shift[None, :, None, None].clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w], or the [B, C, N] of an autoencoder's attention -> the same shape."""
        if x.ndim != MAP:
            return self(x.unsqueeze(-1)).squeeze(-1)
        batch, channels, height, width = x.shape
        grouped = (batch, self.groups, channels // self.groups, height * width)
        small = x * (1 / self.by)
        centred = small.reshape(grouped) - self._average(small)
        squares = (centred * centred).reshape(x.shape)
        normed = centred * torch.rsqrt(self._average(squares) + self.eps)
        return normed.reshape(x.shape) * self.gain + self.shift

    def _average(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] -> [B, groups, 1, 1], by rows, then columns, then channels."""
        by_channel = x.mean(3).mean(2)
        return by_channel.reshape(len(x), self.groups, -1, 1).mean(2, keepdim=True)


class SafeLayerNorm(nn.Module):
    """nn.LayerNorm of tokens that are divided by a power of two first.

    Args:
        norm: Over one axis; whose weights are used.
        by: The power of two.
    """

    def __init__(self, norm: nn.LayerNorm, by: float):
        super().__init__()
        self.by = by
        self.eps = norm.eps / by**2
        self.weight = norm.weight
        self.bias = norm.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., C] -> the same shape."""
        small = x * (1 / self.by)
        centred = small - small.mean(-1, keepdim=True)
        normed = centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + self.eps)
        if self.weight is not None:
            normed = normed * self.weight
        return normed if self.bias is None else normed + self.bias


def power_for(reach: float, count: int) -> float:
    """The least power of two by which a map has to be divided; 1 where it need not.

    Args:
        reach: The greatest magnitude of what is squared.
        count: How many squares are added up at once.
    """
    wanted = reach * math.sqrt(MARGIN * count / HALF_MAX)
    return 1.0 if wanted <= 1 else 2.0 ** math.ceil(math.log2(wanted))


@torch.no_grad()
def with_safe_norms(module: nn.Module, samples: Iterable[tuple[torch.Tensor, ...]]) -> nn.Module:
    """A copy of a network whose norms do not overflow float16.

    Args:
        module: The network.
        samples: Inputs that it is run on, for the powers of two.
    """
    module = copy.deepcopy(module)
    powers: dict[nn.Module, float] = {}

    def note(norm: Any, given: tuple[torch.Tensor, ...]) -> None:
        x = given[0]
        if isinstance(norm, nn.GroupNorm):
            parts, count = x.reshape(len(x), norm.num_groups, -1), max(x.shape[1:])
        else:
            parts, count = x, x.shape[-1]
        reach = (parts - parts.mean(-1, keepdim=True)).abs().max().item()
        powers[norm] = max(powers.get(norm, 1.0), power_for(reach, count))

    norms = [child for child in module.modules() if _is_norm(child)]
    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    for given in samples:
        module(*given)
    for hook in hooks:
        hook.remove()
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            by = powers.get(child, 1.0)
            if by > 1 and isinstance(child, nn.GroupNorm):
                setattr(parent, name, SafeGroupNorm(child, by))
            elif by > 1 and isinstance(child, nn.LayerNorm):
                setattr(parent, name, SafeLayerNorm(child, by))
    return module


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.GroupNorm) or (
        isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1
    )
