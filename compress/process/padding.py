"""Reflection at the right and bottom of an image, by any width."""

import torch
import torch.nn.functional as F


def pad(image: torch.Tensor, right: int, bottom: int) -> torch.Tensor:
    """[B, C, h, w] -> [B, C, h + bottom, w + right], reflected without repeating the edge. Sides must exceed 1.

    One reflection reaches side - 1 pixels; where more are wanted, the result is reflected again.
    """
    while right or bottom:
        x, y = min(right, image.shape[-1] - 1), min(bottom, image.shape[-2] - 1)
        image = F.pad(image, (0, x, 0, y), mode="reflect")
        right, bottom = right - x, bottom - y
    return image
