"""Heads of a projected discriminator on image tokens, as AddSR and CCSR v2 train with.

Each judges the tokens of one layer of a frozen vision transformer, conditioned on a vector of the
low-resolution image (arXiv 2301.09515 has the idea). Names and shapes of `TokenJudge.state_dict()`
are those of the authors. Written from facts about them.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import spectral_norm

KERNEL = 9  # of the convolution along the tokens
GROUPS = 4  # of GroupNorm
SLOPE = 0.2  # of LeakyReLU below 0
MAPPED = 64  # channels that meet those of the condition


def _block(channels: int, kernel: int) -> nn.Sequential:
    """A convolution along the tokens, whose ends meet."""
    conv = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, padding_mode="circular")
    return nn.Sequential(spectral_norm(conv), nn.GroupNorm(GROUPS, channels), nn.LeakyReLU(SLOPE))


class Residual(nn.Module):
    """A block and its input, added and divided by the root of 2."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.fn = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, N] -> the same shape."""
        return (self.fn(x) + x) / math.sqrt(2)


class EqualisedLinear(nn.Linear):
    """A linear layer whose weights count 1 / sqrt(inputs), as in progressive GANs (1710.10196)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, inputs] -> [B, outputs]."""
        return F.linear(x, self.weight / math.sqrt(self.in_features), self.bias)


class TokenHead(nn.Module):
    """The judge of one layer.

    Args:
        channels: Of a token.
        condition: Of the vector of the condition.
    """

    def __init__(self, channels: int, condition: int):
        super().__init__()
        self.main = nn.Sequential(_block(channels, 1), Residual(_block(channels, KERNEL)))
        self.cmapper = EqualisedLinear(condition, MAPPED)
        self.cls = spectral_norm(nn.Conv1d(channels, MAPPED, 1))

    def forward(self, tokens: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Tokens [B, C, N] and vectors [B, D] -> logits [B, N], positive for real."""
        mapped = self.cmapper(condition)[:, :, None]
        return (self.cls(self.main(tokens)) * mapped).sum(dim=1) / math.sqrt(MAPPED)


class TokenJudge(nn.Module):
    """A head for each layer.

    In training mode each call does a step of the power iteration of the spectral norms.

    Args:
        channels: Of a token; 384 of the authors' transformer.
        condition: Of the vector; 384 of theirs.
        layers: How many layers are judged; 5 of theirs.
    """

    def __init__(self, channels: int = 384, condition: int = 384, layers: int = 5):
        super().__init__()
        self.heads = nn.ModuleList(TokenHead(channels, condition) for _ in range(layers))

    def forward(
        self, layers: list[torch.Tensor], condition: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Logits [B, N] of the tokens [B, C, N] of each layer, and vectors [B, D]."""
        pairs = zip(self.heads, layers, strict=True)
        return tuple(head(tokens, condition) for head, tokens in pairs)
