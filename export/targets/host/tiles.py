"""A photograph of any size through the graphs: tiles, what happens between the networks, one colour correction."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from . import strips
from .arithmetic import reflect
from .runtimes import Graph


def clean_latent(factors: dict, latent: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """latent * a + prediction * b; where a is 0, the two may differ in their channels."""
    clean = factors["prediction"] * prediction
    return (clean + factors["latent"] * latent if factors["latent"] else clean).astype(np.float32)


def chain(manifest: dict, graphs: dict[str, Graph], lr: np.ndarray) -> np.ndarray:
    """One tile [1, 3, h, w] in [0, 1] -> [1, 3, 4h, 4w]: all in one graph, or encoder, denoiser and decoder."""
    if "model" in graphs:
        return graphs["model"](lr)
    latent = graphs["encoder"](lr)
    return graphs["decoder"](
        clean_latent(manifest["host"]["clean_latent"], latent, graphs["denoiser"](latent))
    )


@dataclass(frozen=True)
class Grid:
    """Tiles of `tile` pixels, `count` of them at a `step`, rows and columns; `margin` pixels of reflection lie above
    and left of the image, as many or more below and right, so that the tiles are filled. `several` tiles or one."""

    tile: tuple[int, int]
    step: tuple[int, int]
    count: tuple[int, int]
    margin: int

    @property
    def several(self) -> bool:
        return self.count != (1, 1)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width with the reflection."""
        return tuple(
            t + (n - 1) * s for t, n, s in zip(self.tile, self.count, self.step, strict=True)
        )


def grid(manifest: dict, height: int, width: int) -> Grid:
    """Where the tiles of an image of height x width lie."""
    host = manifest["host"]
    align, margin = host["align"], host.get("margin", 0)
    tile, step, count = [], [], []
    for limit, side in zip(manifest["lr_size"], (height, width), strict=True):
        side += 2 * margin
        if manifest[
            "dynamic"
        ]:  # a small image need not fill a tile, and one that fits it has its margin besides
            least = max(host["smallest"], -(-side // align) * align)
            limit = least if least <= limit + 2 * -(-margin // align) * align else limit
        apart = max(align, (limit - min(host["overlap"], limit // 2)) // align * align)
        tile.append(limit)
        step.append(apart)
        count.append(max(0, -(-(side - limit) // apart)) + 1)
    return Grid(tuple(tile), tuple(step), tuple(count), margin)


def tile_rows(manifest: dict, graphs: dict[str, Graph], lr: np.ndarray) -> Iterator[np.ndarray]:
    """The blended tiles of [1, 3, h, w] before any correction: strips [3, rows, 4w] from top to bottom, each valid
    until the next is asked for."""
    scale, (height, width) = manifest["scale"], lr.shape[2:]
    where = grid(manifest, height, width)
    margin, tile, step = where.margin, where.tile, where.step
    padded = reflect(
        lr, where.size[0] - height - margin, where.size[1] - width - margin, margin, margin
    )
    tops, lefts = ([i * s for i in range(n)] for n, s in zip(where.count, step, strict=True))
    along_y, along_x = (
        strips.shares([scale * s for s in starts], scale * side, (scale * side - 1) / 2)
        for starts, side in zip((tops, lefts), tile, strict=True)
    )
    first, last, skip, rows = (
        margin * scale,
        (margin + width) * scale,
        margin * scale,
        height * scale,
    )
    buffer = np.zeros((3, tile[0] * scale, where.size[1] * scale), np.float32)
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            piece = chain(
                manifest,
                graphs,
                np.ascontiguousarray(padded[:, :, top : top + tile[0], left : left + tile[1]]),
            )
            weight = np.outer(along_y[i], along_x[j]).astype(np.float32)
            buffer[:, :, left * scale : (left + tile[1]) * scale] += piece[0] * weight
        complete = scale * (tile[0] if i + 1 == len(tops) else step[0])
        strip = buffer[:, :complete, first:last][:, skip : skip + rows]
        skip, rows = max(0, skip - complete), rows - strip.shape[1]
        if strip.shape[1]:
            yield strip
        rest = buffer.shape[1] - complete
        buffer[:, :rest] = buffer[:, complete:]
        buffer[:, rest:] = 0


def corrected(manifest: dict, graphs: dict[str, Graph], lr: np.ndarray) -> Iterator[np.ndarray]:
    """As `tile_rows`, with one colour correction over the whole; values may leave [0, 1]."""
    host, where = manifest["host"], grid(manifest, *lr.shape[2:])
    name = host["colour_fix_of_tiles"] if where.several else host["colour_fix"]
    if "model" in graphs and where.size == lr.shape[2:]:
        name = "none"  # model.* corrected its own tile already, which is the image
    return strips.corrected(tile_rows(manifest, graphs, lr), lr[0], name, manifest["scale"])


def upscale(manifest: dict, graphs: dict[str, Graph], lr: np.ndarray) -> np.ndarray:
    """float32 [1, 3, h, w] in [0, 1] of any size -> [1, 3, 4h, 4w]: Gaussian-weighted tiles, one colour correction.

    Raises StripError for values that are not finite, and where a temporary file does not find room.
    """
    height, width = (side * manifest["scale"] for side in lr.shape[2:])
    return strips.to_floats(corrected(manifest, graphs, lr), height, width)


def upscale_bytes(manifest: dict, graphs: dict[str, Graph], lr: np.ndarray) -> np.ndarray:
    """As `upscale`, uint8 [4h, 4w, 3]; no float image is ever whole in memory."""
    height, width = (side * manifest["scale"] for side in lr.shape[2:])
    return strips.to_bytes(corrected(manifest, graphs, lr), height, width)


def chosen(manifest: dict, wanted: str | None) -> list[str]:
    """The graphs to run: the parts where they are all there, because one colour correction then serves all tiles."""
    parts = [name for name in ("encoder", "denoiser", "decoder") if name in manifest["graphs"]]
    if wanted == "model" or (wanted is None and len(parts) < 3):
        if "model" not in manifest["graphs"]:
            raise SystemExit(
                f"error: this folder holds {', '.join(manifest['graphs'])}, which is no whole model; export "
                "it again without --component"
            )
        return ["model"]
    return parts
