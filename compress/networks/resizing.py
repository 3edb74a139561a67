"""Resizing as components without weights, where several networks read the result."""

import torch
import torch.nn.functional as F
from torch import nn

from compress.process.resample import upsample


class Enlarged(nn.Module):
    """[B, 3, h, w] in [0, 1] -> bicubic x4, clamped to [0, 1]."""

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return upsample(lr).clamp(0, 1)


class Squeezed(nn.Module):
    """[B, 3, h, w] -> [B, 3, side, side], bilinear.

    Args:
        side: Height and width of the result.
    """

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """See the class."""
        side = (self.side, self.side)
        return F.interpolate(image, side, mode="bilinear", align_corners=False)
