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


class Refined(nn.Module):
    """What the next step sees of a decoded image: AddSR's refinement (arXiv 2404.01717).

        condition = weight * decoded + (1 - weight) * enlarged input

    Args:
        weight: Share of the decoded image, from 0 to 1.
        side: Height and width of the image that tokens are made of.
    """

    def __init__(self, weight: float, side: int):
        super().__init__()
        self.weight = weight
        self.side = side

    def forward(
        self, decoded: torch.Tensor, enlarged: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [B, 3, H, W] -> the condition, likewise, and its squeezed image.

        Args:
            decoded: Is clamped to [0, 1].
            enlarged: The input, in [0, 1].
        """
        condition = self.weight * decoded.clamp(0, 1) + (1 - self.weight) * enlarged
        side = (self.side, self.side)
        # Not clamped: the authors do not.
        return condition, F.interpolate(condition, side, mode="bicubic", align_corners=False)


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
