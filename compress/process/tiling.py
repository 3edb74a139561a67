"""Gaussian-weighted tiles: run a network on pieces of a large map and blend what comes out.

Weights are OSEDiff's (`OSEDiff_test._gaussian_weights`): variance 0.01 in units of the tile, the
centre at (n-1)/2 along x and n/2 along y as in the original. A weight is the product of one along each axis, and the
grid of tiles is regular; so the weights are divided by their sum once along each axis, in float64, before any value
meets them. Tiles are summed in float32 or better: in float16 the weights of a tile's corner would be 0.
"""

import math
from collections.abc import Callable, Iterator

import torch

from compress.process.strips import shares


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


def tile_places(length: int, tile: int, overlap: int, align: int) -> list[int]:
    """First positions, multiples of `align`, of the tiles along one side of `length`, which `align` divides."""
    return [align * s for s in tile_starts(length // align, tile // align, math.ceil(overlap / align))]


def tiled_rows(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, tile: int, overlap: int,
               scale: float = 1.0, align: int = 1) -> Iterator[torch.Tensor]:
    """As `tiled`, in strips [B, C', rows, W*scale] from top to bottom, each given as soon as it is complete."""
    height, width = x.shape[-2:]
    if height <= tile and width <= tile:
        yield function(x)
        return
    rows, columns = (tile_places(side, tile, overlap, align) for side in (height, width))
    tops, lefts = ([round(s * scale) for s in starts] for starts in (rows, columns))
    buffer = along_y = along_x = None
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            piece = function(x[..., top:top + min(tile, height), left:left + min(tile, width)])
            h, w = piece.shape[-2:]
            if along_y is None:
                along_y, along_x = shares(tops, h, h / 2), shares(lefts, w, (w - 1) / 2)
            if buffer is None:
                dtype = torch.promote_types(piece.dtype, torch.float32)
                buffer = piece.new_zeros(*piece.shape[:2], h, round(width * scale), dtype=dtype)
            weight = torch.outer(torch.from_numpy(along_y[i]), torch.from_numpy(along_x[j]))
            buffer[..., lefts[j]:lefts[j] + w] += piece * weight.to(buffer)
        complete = tops[i + 1] - tops[i] if i + 1 < len(tops) else h
        yield buffer[..., :complete, :].to(piece.dtype)
        buffer = torch.cat([buffer[..., complete:, :], torch.zeros_like(buffer[..., :complete, :])], dim=-2)


def tiled(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, tile: int, overlap: int,
          scale: float = 1.0, align: int = 1) -> torch.Tensor:
    """Apply `function` to overlapping square tiles of `x` [B, C, H, W] and blend the results.

    `function` maps [B, C, h, w] to [B, C', h*scale, w*scale]. `tile` and `overlap` are in the pixels of `x`;
    tile positions are multiples of `align`, which must divide H and W, so that they fall on whole
    output pixels. A map no larger than one tile is passed through unchanged.
    """
    whole, filled = None, 0
    for strip in tiled_rows(function, x, tile, overlap, scale, align):
        height = round(x.shape[-2] * scale)
        if strip.shape[-2] == height:
            return strip
        if whole is None:
            whole = strip.new_empty(*strip.shape[:2], height, strip.shape[-1])
        whole[..., filled:filled + strip.shape[-2], :] = strip
        filled += strip.shape[-2]
    return whole
