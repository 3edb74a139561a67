"""InvSR's way with images of any size: reflected to a tile at least, cut into square tiles."""

import math

import torch
import torch.nn.functional as F

MULTIPLE = 16
Pads = tuple[int, int, int, int]  # left, right, top, bottom


def reflected(image: torch.Tensor, least: int) -> tuple[torch.Tensor, Pads]:
    """The image with both sides at least `least`, by centred reflections."""
    total = [0, 0, 0, 0]
    while min(image.shape[-2:]) < least:
        pads: list[int] = []
        for side in reversed(image.shape[-2:]):  # width, height
            before = max(0, min((least - side) // 2, side - 1))
            after = max(0, min(least - side - before, side - 1))
            pads += [before, after]
        image = F.pad(image, pads, mode="reflect")
        total = [a + b for a, b in zip(total, pads, strict=True)]
    return image, (total[0], total[1], total[2], total[3])


def starts(length: int, tile: int, stride: int) -> list[int]:
    """First positions of tiles; the last is moved back to the border."""
    if length <= tile:
        return [0]
    return sorted({min(start, length - tile) for start in range(0, length, stride)})


def profile(side: int) -> torch.Tensor:
    """The weights along one side, float64; of an even side those of one more, less the first."""
    odd = side + 1 if side % 2 == 0 else side
    sigma = 0.3 * ((side - 1) / 2 - 1) + 0.8
    x = torch.arange(odd, dtype=torch.float64) - (odd - 1) / 2
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    return (kernel / kernel.sum())[odd - side :]


def blended(
    pieces: list[torch.Tensor], places: list[tuple[int, int]], height: int, width: int
) -> torch.Tensor:
    """The weighted mean of square pieces at their places, float64."""
    along = profile(pieces[0].shape[-1])
    weight = torch.outer(along, along)
    total = torch.zeros(*pieces[0].shape[:2], height, width, dtype=torch.float64)
    weights = torch.zeros_like(total)
    side = pieces[0].shape[-1]
    for piece, (top, left) in zip(pieces, places, strict=True):
        total[..., top : top + side, left : left + side] += piece.double() * weight
        weights[..., top : top + side, left : left + side] += weight
    return total / weights


def to_multiple(image: torch.Tensor, multiple: int = MULTIPLE) -> torch.Tensor:
    """Reflected at the right and the bottom."""
    height, width = image.shape[-2:]
    right = math.ceil(width / multiple) * multiple - width
    bottom = math.ceil(height / multiple) * multiple - height
    return F.pad(image, (0, right, 0, bottom), mode="reflect")
