"""Reflection beyond the borders of an image, by any width."""

import torch
import torch.nn.functional as F


def round_up(side: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is no smaller than `side`."""
    return side + -side % multiple


def pad(image: torch.Tensor, right: int, bottom: int) -> torch.Tensor:
    """Reflect an image beyond its right and bottom border, without repeating the edge.

    One reflection reaches side - 1 pixels; where more are wanted, the result is reflected again.

    Args:
        image: [B, C, h, w], with sides above 1.
        right: Pixels to add at the right.
        bottom: Pixels to add at the bottom.

    Returns:
        [B, C, h + bottom, w + right].
    """
    while right or bottom:
        columns = min(right, image.shape[-1] - 1)
        rows = min(bottom, image.shape[-2] - 1)
        image = F.pad(image, (0, columns, 0, rows), mode="reflect")
        right -= columns
        bottom -= rows
    return image


def surround(image: torch.Tensor, margin: int, multiple: int) -> torch.Tensor:
    """Reflect an image beyond all four borders, and on to a multiple at the right and bottom.

    What a network makes of the outermost pixels is wrong, because it sees zeros beyond them. The
    result for the image itself begins `margin` pixels from the top and left.

    Args:
        image: [B, C, h, w].
        margin: Pixels to add on every side.
        multiple: Both sides of the result are multiples of it.
    """
    height, width = image.shape[-2:]
    if margin:
        image = pad(image.flip(-1, -2), margin, margin).flip(-1, -2)
    right = round_up(width + 2 * margin, multiple) - width - margin
    bottom = round_up(height + 2 * margin, multiple) - height - margin
    return pad(image, right, bottom)
