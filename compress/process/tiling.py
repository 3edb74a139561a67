"""Gaussian-weighted tiles: run a network on pieces of a large map and blend what comes out.

Weights are OSEDiff's (`OSEDiff_test._gaussian_weights`): variance 0.01 in units of the tile, the
centre at (n-1)/2 along x and n/2 along y as in the original; the blend divides by the weight sum.
"""

import math
from collections.abc import Callable

import torch


def gaussian_weights(height: int, width: int) -> torch.Tensor:
    """Blending weights of one tile: float64 [height, width], positive."""
    def profile(n: int, centre: float) -> torch.Tensor:
        x = (torch.arange(n, dtype=torch.float64) - centre) / n
        return torch.exp(-(x**2) / (2 * 0.01)) / math.sqrt(2 * math.pi * 0.01)

    return torch.outer(profile(height, height / 2), profile(width, (width - 1) / 2))


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """First positions of tiles that cover `length`; neighbours share at least `overlap`, none sticks out."""
    if length <= tile:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def tiled(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, tile: int, overlap: int,
          scale: float = 1.0, align: int = 1) -> torch.Tensor:
    """Apply `function` to overlapping square tiles of `x` [B, C, H, W] and blend the results.

    `function` maps [B, C, h, w] to [B, C', h*scale, w*scale]. `tile` and `overlap` are in the pixels of `x`;
    tile positions are multiples of `align`, which must divide H and W, so that they fall on whole
    output pixels. A map no larger than one tile is passed through unchanged.
    """
    height, width = x.shape[-2:]
    if height <= tile and width <= tile:
        return function(x)
    rows, columns = ([align * s for s in tile_starts(side // align, tile // align, math.ceil(overlap / align))]
                     for side in (height, width))
    total = weight_sum = None
    for top in rows:
        for left in columns:
            piece = function(x[..., top:top + min(tile, height), left:left + min(tile, width)])
            h, w = piece.shape[-2:]
            weight = gaussian_weights(h, w).to(piece)
            if total is None:
                total = piece.new_zeros(*piece.shape[:2], round(height * scale), round(width * scale))
                weight_sum = torch.zeros_like(total[:1, :1])
            y, z = round(top * scale), round(left * scale)
            total[..., y:y + h, z:z + w] += piece * weight
            weight_sum[..., y:y + h, z:z + w] += weight
    return total / weight_sum
