"""Reflection beyond the borders of an image, by any width."""

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


def surround(image: torch.Tensor, margin: int, multiple: int) -> torch.Tensor:
    """[B, C, h, w] reflected by `margin` pixels on all four sides, and at the right and bottom on to a `multiple`.

    What a network makes of the outermost pixels is wrong, because it sees zeros beyond them. The result for the image
    itself begins `margin` pixels from the top and left.
    """
    height, width = image.shape[-2:]
    if margin:
        image = pad(image.flip(-1, -2), margin, margin).flip(-1, -2)
    return pad(
        image, margin + -(width + 2 * margin) % multiple, margin + -(height + 2 * margin) % multiple
    )
