"""A discriminator on the features of a frozen encoder (projected GANs, arXiv 2111.01007).

AddSR and CCSR v2 have the tokens of DINO there, conditioned on a vector of the low-resolution
image. Here the frozen network is an autoencoder's encoder, which every model has. Its last levels
are mixed by a random 1x1 convolution each, as projected GANs do, and judged by `TokenJudge`.
"""

import copy
from typing import Any

import torch
from torch import nn

from compress.networks.latent_diffusion import VAEEncoder
from compress.networks.token_judge import TokenJudge

LEVELS = 3  # the last ones, at a quarter of the image and below
CHANNELS = 32  # of what is judged
SEEN = 64  # side of an image that shows how wide the levels are


class ProjectedJudge(nn.Module):
    """Images [B, 3, H, W] in [0, 1] and vectors [B, D] -> logits [B, N] of each level.

    Args:
        encoder: Is copied, and frozen.
        condition: D.
    """

    def __init__(self, encoder: VAEEncoder, condition: int):
        super().__init__()
        self.features: Any = copy.deepcopy(encoder.encoder).requires_grad_(False)
        parameter = next(self.features.parameters())
        with torch.no_grad():
            seen = self.levels(parameter.new_zeros(1, 3, SEEN, SEEN))
        widths = [level.shape[1] for level in seen]
        self.mixes = nn.ModuleList(nn.Conv2d(width, CHANNELS, 1) for width in widths)
        self.mixes.requires_grad_(False)
        self.judge = TokenJudge(CHANNELS, condition, len(widths))

    def levels(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Features [B, C, h, w] of the last levels, of an image [B, 3, H, W] in [0, 1]."""
        x = self.features.conv_in(2 * image - 1)
        seen = []
        for block in self.features.down_blocks:
            x = block(x)
            seen.append(x)
        return seen[-LEVELS:]

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What learns: the heads."""
        return list(self.judge.parameters())

    def forward(self, image: torch.Tensor, condition: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See the class."""
        levels = zip(self.mixes, self.levels(image), strict=True)
        layers = [mix(level).flatten(2) for mix, level in levels]
        found: tuple[torch.Tensor, ...] = self.judge(layers, condition)
        return found
