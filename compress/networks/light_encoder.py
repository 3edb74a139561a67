"""A small encoder: residual blocks on rearranged pixels, in the place of an autoencoder's."""

import torch
import torch.nn.functional as F
from torch import nn

RGB = 3


class LightBlock(nn.Module):
    """Two convolutions with a residual: [B, C, h, w] -> the same shape."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return x + self.conv2(F.silu(self.conv1(x)))


class LightEncoder(nn.Module):
    """Image [B, 3, factor * h, factor * w] in [0, 1] -> latent [B, latent_channels, h, w].

    Args:
        factor: Pixels of the image by those of the latent.
        channels: Between the blocks.
        blocks: How many there are.
        latent_channels: Of the latent.
    """

    def __init__(self, factor: int, channels: int, blocks: int, latent_channels: int):
        super().__init__()
        self.factor = factor
        self.conv_in = nn.Conv2d(RGB * factor**2, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(LightBlock(channels) for _ in range(blocks)))
        self.conv_out = nn.Conv2d(channels, latent_channels, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = self.conv_in(F.pixel_unshuffle(image * 2 - 1, self.factor))
        return self.conv_out(self.blocks(x))
