"""Colour correction by an image of the model's own, as a component."""

import torch
from torch import nn

from compress.process.colour import wavelet


class Recoloured(nn.Module):
    """High frequencies of an image over the low frequency of another, such as a preprocessor's.

    It reaches 31 pixels, so that tiles with their overlap see what the whole image would give.
    """

    def forward(self, image: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Both [B, 3, H, W] in about [0, 1]; the result may leave [0, 1]."""
        return wavelet(image, reference)
