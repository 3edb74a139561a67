"""Gaussian-weighted tiles: run a network on pieces of a large map and blend what comes out.

Weights are OSEDiff's (`OSEDiff_test._gaussian_weights`): variance 0.01 in units of the tile, the
centre at (n-1)/2 along x and n/2 along y as in the original. A weight is the product of one along
each axis, and the grid of tiles is regular; so the weights are divided by their sum once along each
axis, in float64, before any value meets them. Tiles are summed in float32 or better: in float16 the
weights of a tile's corner would be 0.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from compress.process.strips import shares, spans

VARIANCE = 0.01  # of the weights, in units of the tile
Function = Callable[..., torch.Tensor]  # of a piece of the map, and of those beside it
Beside = Sequence[tuple[torch.Tensor, float]]  # further maps, and their side by that of the first


def gaussian_weights(height: int, width: int) -> torch.Tensor:
    """Blending weights of one tile: float64 [height, width], positive."""
    along_y = _profile(height, height / 2)
    along_x = _profile(width, (width - 1) / 2)
    return torch.outer(along_y, along_x)


def _profile(side: int, centre: float) -> torch.Tensor:
    x = (torch.arange(side, dtype=torch.float64) - centre) / side
    return torch.exp(-(x**2) / (2 * VARIANCE)) / math.sqrt(2 * math.pi * VARIANCE)


def tile_starts(length: int, tile: int, overlap: int, flush: bool = False) -> list[int]:
    """First positions of tiles that cover `length`.

    Neighbours share at least `overlap`, and no tile sticks out. They are spaced evenly; `flush`
    tiles stand every `tile - overlap`, and the last one ends with `length`.
    """
    if length <= tile:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    if flush:
        return [min(i * (tile - overlap), length - tile) for i in range(count)]
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def tile_places(length: int, tile: int, overlap: int, align: int, flush: bool = False) -> list[int]:
    """First positions of the tiles along a side, multiples of `align`, which divides `length`."""
    starts = tile_starts(length // align, tile // align, math.ceil(overlap / align), flush)
    return [align * start for start in starts]


@dataclass(frozen=True)
class Cut:
    """How a map is cut into tiles.

    Attributes:
        tile: Side of a tile in pixels of the map.
        overlap: How many pixels neighbours share at least.
        align: Positions of tiles are multiples of it.
        margin: The outermost pixels of the map belong to no tile by themselves: tiles at its
            borders have them besides.
        flush: See `tile_starts`.
    """

    tile: int
    overlap: int
    align: int = 1
    margin: int = 0
    flush: bool = False

    def places(self, side: int) -> tuple[list[int], int]:
        """First pixels of the tiles along a side, counted without the margin, and their length."""
        inner = side - 2 * self.margin
        starts = tile_places(inner, self.tile, self.overlap, self.align, self.flush)
        return starts, min(self.tile, inner)


def _axis_weights(
    starts: list[int], side: int, scale: float, margin: int, centre: float
) -> list[torch.Tensor]:
    """Weights of the tiles along one axis of the result, float64, of sum 1 at every pixel."""
    scaled = [round(start * scale) for start in starts]
    weights = shares(scaled, round(side * scale), centre, margin)
    return [torch.from_numpy(weight) for weight in weights]


def _run_tile(
    function: Function, maps: Beside, top: int, bottom: int, left: int, right: int
) -> torch.Tensor:
    """What the function makes of a tile, whose place is given in pixels of the first map."""
    pieces = []
    for x, scale in maps:
        rows = slice(round(top * scale), round(bottom * scale))
        columns = slice(round(left * scale), round(right * scale))
        pieces.append(x[..., rows, columns])
    return function(*pieces)


def _blended_row(
    run: Callable[[int, int], torch.Tensor],
    columns: list[tuple[int, int]],
    along_y: torch.Tensor,
    along_x: list[torch.Tensor],
    scale: float,
) -> tuple[torch.Tensor, torch.dtype]:
    """The weighted sum of one row of tiles, and the type in which the function gives its result.

    Args:
        run: The result of the tile between two columns.
        columns: First column and the one after the last of each tile.
        along_y: The tiles' weights along y.
        along_x: Each tile's weights along x.
        scale: See `tiled`.

    Returns:
        The sum in float32 or better.
    """
    piece = run(*columns[0])
    wide = torch.promote_types(piece.dtype, torch.float32)
    buffer = piece.new_zeros(*piece.shape[:3], round(columns[-1][1] * scale), dtype=wide)
    for i, ((left, right), weights) in enumerate(zip(columns, along_x, strict=True)):
        if i > 0:
            piece = run(left, right)
        weight = torch.outer(along_y, weights)
        buffer[..., round(left * scale) : round(right * scale)] += piece * weight.to(buffer)
    return buffer, piece.dtype


def tiled_rows(
    function: Function, x: torch.Tensor, how: Cut, scale: float = 1.0, beside: Beside = ()
) -> Iterator[torch.Tensor]:
    """As `tiled`, in strips from top to bottom, each given as soon as it is complete.

    Args:
        function: Maps [B, C, h, w], and the pieces of the maps beside it, to [B, C', h*scale,
            w*scale].
        x: [B, C, H, W].
        how: The tiles, in pixels of `x`.
        scale: How many times larger the result is.
        beside: Further maps, cut at the same places and given to `function` behind the first.

    Yields:
        [B, C', rows, W*scale].
    """
    height, width = x.shape[-2:]
    tops, tall = how.places(height)
    lefts, wide = how.places(width)
    if len(tops) == len(lefts) == 1:
        yield function(x, *(other for other, _ in beside))
        return
    maps = [(x, 1.0), *beside]
    rows = spans(tops, tall, how.margin)
    columns = spans(lefts, wide, how.margin)
    margin = round(how.margin * scale)
    along_y = _axis_weights(tops, tall, scale, margin, centre=0.5 * round(tall * scale))
    along_x = _axis_weights(lefts, wide, scale, margin, centre=0.5 * (round(wide * scale) - 1))
    rest: torch.Tensor | None = None  # of the tiles above: what those of the next row add to
    for i, (top, bottom) in enumerate(rows):
        run = partial(_run_tile, function, maps, top, bottom)
        buffer, dtype = _blended_row(run, columns, along_y[i], along_x, scale)
        if rest is not None:
            buffer[..., : rest.shape[-2], :] += rest
        complete = buffer.shape[-2]
        if i + 1 < len(rows):
            complete = round((rows[i + 1][0] - top) * scale)
        yield buffer[..., :complete, :].to(dtype)
        rest = buffer[..., complete:, :].clone()


def tiled(
    function: Function,
    x: torch.Tensor,
    tile: int,
    overlap: int,
    scale: float = 1.0,
    align: int = 1,
    margin: int = 0,
) -> torch.Tensor:
    """Apply a function to overlapping square tiles of a map and blend the results.

    A map no larger than one tile is passed through unchanged.

    Args:
        function: Maps [B, C, h, w] to [B, C', h*scale, w*scale].
        x: [B, C, H, W].
        tile: Side of a tile in pixels of `x`.
        overlap: How many pixels neighbours share at least.
        scale: How many times larger the result is.
        align: Tile positions are multiples of it, so that they fall on whole output pixels. It must
            divide H and W.
        margin: See `Cut`.

    Returns:
        [B, C', H*scale, W*scale].
    """
    strips = tiled_rows(function, x, Cut(tile, overlap, align, margin), scale)
    return joined(strips, round(x.shape[-2] * scale))


def joined(strips: Iterator[torch.Tensor], height: int) -> torch.Tensor:
    """Strips [B, C, rows, W] from top to bottom as one map [B, C, height, W]."""
    first = next(strips)
    if first.shape[-2] == height:
        return first
    whole = first.new_empty(*first.shape[:2], height, first.shape[-1])
    filled = first.shape[-2]
    whole[..., :filled, :] = first
    for strip in strips:
        whole[..., filled : filled + strip.shape[-2], :] = strip
        filled += strip.shape[-2]
    return whole
