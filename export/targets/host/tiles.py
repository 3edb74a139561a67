"""A photograph of any size through the graphs.

It is cut into tiles; the networks run on each, with some arithmetic between them; one colour
correction is made over the whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from . import strips
from .arithmetic import reflect
from .chain import WHOLE, Values, chain, parts, without_tiles
from .runtimes import Graph


@dataclass(frozen=True)
class Grid:
    """Where tiles lie, in low-resolution pixels; every pair is rows, then columns.

    Attributes:
        tile: Height and width of a tile.
        step: How far apart tiles begin.
        count: How many tiles.
        margin: Pixels of reflection above and left of the image. Below and right there are as
            many, or more, so that the tiles are filled.
    """

    tile: tuple[int, int]
    step: tuple[int, int]
    count: tuple[int, int]
    margin: int

    @property
    def several(self) -> bool:
        """Whether there is more than one tile."""
        return self.count != (1, 1)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image with its reflection."""
        height, width = (
            side + (number - 1) * apart
            for side, number, apart in zip(self.tile, self.count, self.step, strict=True)
        )
        return height, width


def grid(manifest: dict, height: int, width: int) -> Grid:
    """Where the tiles of an image of height x width lie."""
    rows = _along_axis(manifest, manifest["lr_size"][0], height)
    columns = _along_axis(manifest, manifest["lr_size"][1], width)
    tile, step, count = zip(rows, columns, strict=True)
    return Grid(tile, step, count, manifest["host"].get("margin", 0))


def _along_axis(manifest: dict, tile: int, side: int) -> tuple[int, int, int]:
    """(side of a tile, step, count) along an axis of `side` pixels; `tile` is the graphs' side."""
    host = manifest["host"]
    align, margin = host["align"], host.get("margin", 0)
    side += 2 * margin
    if manifest["dynamic"]:
        # A small image need not fill a tile, and one that fits it has its margin besides.
        least = max(host["smallest"], _round_up(side, align))
        if least <= tile + 2 * _round_up(margin, align):
            tile = least
    overlap = min(host["overlap"], tile // 2)
    step = max(align, (tile - overlap) // align * align)
    count = max(0, _divide_up(side - tile, step)) + 1
    return tile, step, count


def _divide_up(number: int, divisor: int) -> int:
    return -(-number // divisor)


def _round_up(number: int, unit: int) -> int:
    return _divide_up(number, unit) * unit


def tile_rows(
    manifest: dict, graphs: dict[str, Graph], lr: np.ndarray, images: Values | None = None
) -> Iterator[np.ndarray]:
    """The blended tiles of an image before any correction, a strip of rows at a time.

    Args:
        manifest: As `folder.read` gives it.
        graphs: `model`, or those of the components.
        lr: float32 [1, 3, h, w] in [0, 1].
        images: The further images of a model that takes some. Every tile sees all of each.

    Yields:
        Strips float32 [3, rows, scale * w] from top to bottom, each valid until the next is asked
        for. Their rows add up to scale * h.
    """
    scale = manifest["scale"]
    others = without_tiles(manifest, graphs, images or {})
    height, width = lr.shape[2:]
    where = grid(manifest, height, width)
    margin = where.margin
    below = where.size[0] - height - margin
    behind = where.size[1] - width - margin
    padded = reflect(lr, below, behind, margin, margin)
    tops = [i * where.step[0] for i in range(where.count[0])]
    lefts = [i * where.step[1] for i in range(where.count[1])]
    shares_of_rows = _shares(tops, where.tile[0], scale)
    shares_of_columns = _shares(lefts, where.tile[1], scale)
    first = margin * scale  # column of the image in the buffer
    last = (margin + width) * scale
    rows_to_skip = margin * scale
    rows_left = height * scale
    buffer = np.zeros((3, where.tile[0] * scale, where.size[1] * scale), np.float32)
    for top, vertical in zip(tops, shares_of_rows, strict=True):
        for left, horizontal in zip(lefts, shares_of_columns, strict=True):
            piece = padded[:, :, top : top + where.tile[0], left : left + where.tile[1]]
            restored = chain(manifest, graphs, np.ascontiguousarray(piece), others)
            weight = np.outer(vertical, horizontal).astype(np.float32)
            right = (left + where.tile[1]) * scale
            buffer[:, :, left * scale : right] += restored[0] * weight
        is_last = top == tops[-1]
        complete = scale * (where.tile[0] if is_last else where.step[0])
        strip = buffer[:, :complete, first:last][:, rows_to_skip : rows_to_skip + rows_left]
        rows_to_skip = max(0, rows_to_skip - complete)
        rows_left -= strip.shape[1]
        if strip.shape[1]:
            yield strip
        rest = buffer.shape[1] - complete
        buffer[:, :rest] = buffer[:, complete:]
        buffer[:, rest:] = 0


def _shares(starts: list[int], side: int, scale: int) -> list[np.ndarray]:
    """The share that each tile along an axis has in its pixels of the output."""
    scaled = [scale * start for start in starts]
    return strips.shares(scaled, scale * side, (scale * side - 1) / 2)


def corrected(
    manifest: dict, graphs: dict[str, Graph], lr: np.ndarray, images: Values | None = None
) -> Iterator[np.ndarray]:
    """As `tile_rows`, with one colour correction over the whole; values may leave [0, 1]."""
    host = manifest["host"]
    where = grid(manifest, *lr.shape[2:])
    name = host["colour_fix_of_tiles"] if where.several else host["colour_fix"]
    if WHOLE in graphs and where.size == lr.shape[2:]:
        name = "none"  # model.* corrected its own tile already, which is the image
    rows = tile_rows(manifest, graphs, lr, images)
    return strips.corrected(rows, lr[0], name, manifest["scale"])


def upscale(
    manifest: dict, graphs: dict[str, Graph], lr: np.ndarray, images: Values | None = None
) -> np.ndarray:
    """Upscale an image in tiles with Gaussian weights, and correct its colours once.

    Args:
        manifest: As `folder.read` gives it.
        graphs: `model`, or those of the components.
        lr: float32 [1, 3, h, w] in [0, 1], of any size.
        images: See `tile_rows`.

    Returns:
        float32 [1, 3, scale * h, scale * w] in [0, 1].

    Raises:
        StripError: Values are not finite, or a temporary file does not find room.
    """
    height, width = (side * manifest["scale"] for side in lr.shape[2:])
    return strips.to_floats(corrected(manifest, graphs, lr, images), height, width)


def upscale_bytes(
    manifest: dict, graphs: dict[str, Graph], lr: np.ndarray, images: Values | None = None
) -> np.ndarray:
    """As `upscale`, uint8 [scale * h, scale * w, 3]; no float image is ever whole in memory."""
    height, width = (side * manifest["scale"] for side in lr.shape[2:])
    return strips.to_bytes(corrected(manifest, graphs, lr, images), height, width)


def chosen(manifest: dict, wanted: str | None) -> list[str]:
    """The graphs to run.

    Args:
        manifest: As `folder.read` gives it.
        wanted: `model` or `parts`. None takes the parts where they are all there, because one
            colour correction then serves all tiles.

    Raises:
        SystemExit: The folder holds no whole model.
    """
    names = parts(manifest)
    if names and wanted != WHOLE:
        return names
    if wanted == "parts":
        raise SystemExit(
            f"error: this folder holds {', '.join(manifest['graphs'])}, which are not all parts; "
            "leave out --graphs, or export it again without --component"
        )
    if WHOLE not in manifest["graphs"]:
        raise SystemExit(
            f"error: this folder holds {', '.join(manifest['graphs'])}, which is no whole model; "
            "export it again without --component"
        )
    return [WHOLE]
