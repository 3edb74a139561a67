"""Norms, gates, windows and codes in the few operators that phones' delegates take.

A delegate of ExecuTorch breaks a graph wherever it meets an operator that it has not, and tensors
are handed over there. XNNPACK has no norms and no split, and no delegate has gathers. What is here
computes the same up to rounding, and is put into copies of networks alone. `plain_functions` has
what is called without a module.
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from torch import nn

from compress.networks.vq_autoencoder import Codebook
from export.targets.plain_codebook import PlainCodebook
from export.targets.plain_windows import PlainSwinBlock, map_sizes

MAP = (-2, -1)  # the axes of a feature map that are not channels
TOKENS = 3  # axes of a map whose pixels are in one row


class PlainGroupNorm(nn.Module):
    """nn.GroupNorm of maps by means, products and a convolution that averages over a group."""

    eps: torch.Tensor
    gain: torch.Tensor
    shift: torch.Tensor

    def __init__(self, norm: nn.GroupNorm):
        super().__init__()
        channels, width = norm.num_channels, norm.num_channels // norm.num_groups
        block = torch.full((width, width), 1 / width)
        matrix = torch.block_diag(*[block] * norm.num_groups)
        self.average = nn.Conv2d(channels, channels, 1, bias=False)
        self.average.weight = nn.Parameter(matrix[:, :, None, None], requires_grad=False)
        gain = torch.ones(channels) if norm.weight is None else norm.weight.detach()
        shift = torch.zeros(channels) if norm.bias is None else norm.bias.detach()
        self.register_buffer("eps", torch.full((1, 1, 1, 1), norm.eps))
        self.register_buffer("gain", gain[None, :, None, None].clone())
        self.register_buffer("shift", shift[None, :, None, None].clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W], or the [B, C, N] of an autoencoder's attention -> the same shape."""
        if x.ndim == TOKENS:
            return self(x.unsqueeze(-1)).squeeze(-1)
        centred = x - self.average(x.mean(MAP, keepdim=True))
        variance = self.average((centred * centred).mean(MAP, keepdim=True))
        return centred * (torch.rsqrt(variance + self.eps) * self.gain) + self.shift


class PlainLayerNorm(nn.Module):
    """nn.LayerNorm of tokens by linear layers that average over all channels."""

    eps: torch.Tensor
    gain: torch.Tensor
    shift: torch.Tensor

    def __init__(self, norm: nn.LayerNorm):
        super().__init__()
        (channels,) = norm.normalized_shape
        self.average = nn.Linear(channels, channels, bias=False)
        matrix = torch.full((channels, channels), 1 / channels)
        self.average.weight = nn.Parameter(matrix, requires_grad=False)
        gain = torch.ones(channels) if norm.weight is None else norm.weight.detach()
        shift = torch.zeros(channels) if norm.bias is None else norm.bias.detach()
        self.register_buffer("eps", torch.full((1, 1, 1), norm.eps))
        self.register_buffer("gain", gain[None, None].clone())
        self.register_buffer("shift", shift[None, None].clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, N, C] -> the same shape."""
        centred = x - self.average(x)
        variance = self.average(centred * centred)
        return centred * torch.rsqrt(variance + self.eps) * self.gain + self.shift


class PlainGEGLU(nn.Module):
    """diffusers' GEGLU by two linear layers in place of one whose result is split."""

    def __init__(self, gate: GEGLU):
        super().__init__()
        weights = gate.proj.weight.detach().chunk(2)
        biases = (None, None) if gate.proj.bias is None else gate.proj.bias.detach().chunk(2)
        self.value, self.gate = map(_linear, weights, biases)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, N, C] -> [B, N, half of the layer's outputs]."""
        return self.value(x) * F.gelu(self.gate(x))


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return layer


def plain(module: nn.Module) -> nn.Module:
    """A copy of a network whose norms and gates are plain."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(parent, name, PlainGroupNorm(child))
            elif isinstance(child, nn.LayerNorm) and len(child.normalized_shape) == 1:
                setattr(parent, name, PlainLayerNorm(child))
            elif type(child) is GEGLU:
                setattr(parent, name, PlainGEGLU(child))
    return module


def with_plain_group_norms(module: nn.Module) -> nn.Module:
    """A copy of a network whose GroupNorms are plain.

    LiteRT's converter repeats the mean of a narrow group along its channels, by an operator that
    its delegate for GPUs has not.
    """
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(parent, name, PlainGroupNorm(child))
    return module


def without_gathers(module: nn.Module, example: tuple[torch.Tensor, ...]) -> nn.Module:
    """A copy of a network whose windows and codes need no tables.

    Args:
        module: The network.
        example: Its inputs, in the sizes that it is exported for.
    """
    module = copy.deepcopy(module)
    sizes = map_sizes(module, example)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if child in sizes:
                setattr(parent, name, PlainSwinBlock(child, sizes[child]))
            elif isinstance(child, Codebook):
                setattr(parent, name, PlainCodebook(child))
    return module


def stored_codes(module: nn.Module) -> list[np.ndarray]:
    """The constants that the searches of a plain network multiply by, each [1, inputs, outputs]."""
    searches = [child for child in module.modules() if isinstance(child, PlainCodebook)]
    return [x.numpy() for search in searches for x in (search.columns, search.rows)]
