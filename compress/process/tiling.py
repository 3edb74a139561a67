"""Gaussian-weighted tiles: run a network on pieces of a large map and blend what comes out.

Weights are OSEDiff's (`OSEDiff_test._gaussian_weights`): variance 0.01 in units of the tile, the
centre at (n-1)/2 along x and n/2 along y as in the original. A weight is the product of one along each axis, and the
grid of tiles is regular; so the weights are divided by their sum once along each axis, in float64, before any value
meets them. Tiles are summed in float32 or better: in float16 the weights of a tile's corner would be 0.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from compress.process.strips import shares, spans


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
    return [
        align * s for s in tile_starts(length // align, tile // align, math.ceil(overlap / align))
    ]


@dataclass(frozen=True)
class Cut:
    """How a map is cut into tiles: sizes, and positions that are multiples of `align`, in its pixels.

    The outermost `margin` pixels of the map belong to no tile by themselves: tiles at its borders have them besides.
    """

    tile: int
    overlap: int
    align: int = 1
    margin: int = 0

    def places(self, side: int) -> tuple[list[int], int]:
        """First pixels of the tiles along a side of the map, counted without the margin, and their length."""
        inner = side - 2 * self.margin
        return tile_places(inner, self.tile, self.overlap, self.align), min(self.tile, inner)


def tiled_rows(
    function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, how: Cut, scale: float = 1.0
) -> Iterator[torch.Tensor]:
    """As `tiled`, in strips [B, C', rows, W*scale] from top to bottom, each given as soon as it is complete."""
    height, width = x.shape[-2:]
    (tops, tall), (lefts, wide) = how.places(height), how.places(width)
    if len(tops) == len(lefts) == 1:
        yield function(x)
        return
    rows, columns = spans(tops, tall, how.margin), spans(lefts, wide, how.margin)

    def scaled(*values: int) -> list[int]:
        return [round(value * scale) for value in values]

    tall, wide, margin = scaled(tall, wide, how.margin)
    along_y = shares(scaled(*tops), tall, tall / 2, margin)
    along_x = shares(scaled(*lefts), wide, (wide - 1) / 2, margin)
    rest = None  # of the rows of tiles before: what the next one adds to
    for i, (top, bottom) in enumerate(rows):
        buffer = None
        for (left, right), share in zip(columns, along_x, strict=True):
            piece = function(x[..., top:bottom, left:right])
            if buffer is None:
                dtype = torch.promote_types(piece.dtype, torch.float32)
                buffer = piece.new_zeros(*piece.shape[:3], round(width * scale), dtype=dtype)
            weight = torch.outer(torch.from_numpy(along_y[i]), torch.from_numpy(share))
            first, last = scaled(left, right)
            buffer[..., first:last] += piece * weight.to(buffer)
        if rest is not None:
            buffer[..., : rest.shape[-2], :] += rest
        complete = round((rows[i + 1][0] - top) * scale) if i + 1 < len(rows) else buffer.shape[-2]
        yield buffer[..., :complete, :].to(piece.dtype)
        rest = buffer[..., complete:, :].clone()


def tiled(
    function: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    tile: int,
    overlap: int,
    scale: float = 1.0,
    align: int = 1,
    margin: int = 0,
) -> torch.Tensor:
    """Apply `function` to overlapping square tiles of `x` [B, C, H, W] and blend the results.

    `function` maps [B, C, h, w] to [B, C', h*scale, w*scale]. `tile` and `overlap` are in the pixels of `x`;
    tile positions are multiples of `align`, which must divide H and W, so that they fall on whole
    output pixels. A map no larger than one tile is passed through unchanged. `margin` is what `Cut` says.
    """
    whole, filled = None, 0
    for strip in tiled_rows(function, x, Cut(tile, overlap, align, margin), scale):
        height = round(x.shape[-2] * scale)
        if strip.shape[-2] == height:
            return strip
        if whole is None:
            whole = strip.new_empty(*strip.shape[:2], height, strip.shape[-1])
        whole[..., filled : filled + strip.shape[-2], :] = strip
        filled += strip.shape[-2]
    return whole
