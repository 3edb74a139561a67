"""Tiles of a large image by different paths: bicubic, a small CNN, or the model, where it pays.

AdaDiffSR predicts the gain I_i = tanh(R_i - R_{i-1}) of every step of a diffusion from the image,
by a small convolutional network and global pooling, and stops where nothing is gained. Here, as the
one-step form of the idea, the steps are the paths in the order of their cost. R is the quality that
the training measured.

A 512x512 image takes 25 tiles of 128 at a stride of 96. Tiles are blended in pixels with Gaussian
weights. The model's colour correction follows once over the whole; nothing else is taken from a
tile's own statistics. Tiles at the image's borders are run with a reflection beyond them
(`Tiling.margin`); MACs are counted without it.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from typing_extensions import TypedDict

from compress.core.errors import UserError
from compress.core.headers import read_metadata
from compress.core.hub import local_file
from compress.core.image import MIN_SIDE, check_image_tensor
from compress.core.json_files import check_shape, parse_json
from compress.core.tensors import read_tensors
from compress.core.weight_file import write_tensors
from compress.cost.count import measure, measure_module
from compress.model.sr_model import SRModel
from compress.process.padding import surround
from compress.process.resample import SCALE, upsample
from compress.process.tiling import tile_starts, tiled
from compress.routing.choice import choose, values, within_budget
from compress.routing.networks import PATHS, GainRegressor, TileCNN

FORMAT = "diffusion-sr-compress-router/1"
MAKE_ONE = "make one with python -m compress.route train"


@dataclass
class Routed:
    """An upscaled image and how its tiles went.

    Attributes:
        image: [1, 3, 4h, 4w] in [0, 1].
        paths: The path of every tile, row by row.
        columns: Tiles in a row.
        macs: Paper MACs of all, those of the regressor included.
        macs_diffusion: Paper MACs of the model on every tile.
    """

    image: torch.Tensor
    paths: list[str]
    columns: int
    macs: int
    macs_diffusion: int

    def shares(self) -> dict[str, int]:
        """Path -> number of tiles."""
        counts = Counter(self.paths)
        return {path: counts[path] for path in PATHS}


class Sizes(TypedDict):
    """What the header of a router's file says beside its notes."""

    tile: Annotated[int, Field(gt=0, le=4096)]
    overlap: Annotated[int, Field(ge=0, le=2048)]
    threshold: float


class Router(nn.Module):
    """CNN and regressor for tiles of one size.

    Attributes:
        tile: Side of a tile in LR pixels.
        overlap: What it shares with its neighbours, in LR pixels.
        threshold: The quality that one run of the model on a tile must bring, in the unit of R,
            where no other is asked for.
        notes: What it was trained on, as its file keeps it.
    """

    def __init__(self, tile: int = 128, overlap: int = 32, threshold: float = 0.0):
        super().__init__()
        self.cnn = TileCNN()
        self.regressor = GainRegressor()
        self.tile = tile
        self.overlap = overlap
        self.threshold = threshold
        self.notes: dict[str, str] = {}
        self._costs: dict[tuple, torch.Tensor] = {}

    def costs(self, model: SRModel, size: tuple[int, int]) -> tuple[torch.Tensor, int]:
        """Paper MACs of each path on one tile, float64 [3], and of the regressor.

        Resampling is not counted.

        Args:
            model: What the path "diffusion" runs.
            size: Height and width of the tile in LR pixels.
        """
        key = (id(model), size)
        if key not in self._costs:
            tile = torch.empty(1, 3, *size, device="meta")
            cnn = measure_module(self.cnn, tile, name="router").macs_paper
            regressor = measure_module(self.regressor, tile, name="router").macs_paper
            diffusion = measure(model, size).macs_paper
            self._costs[key] = torch.tensor([0, cnn, diffusion, regressor]).double()
        costs = self._costs[key]
        return costs[:3], int(costs[3])

    def pieces(self, padded: torch.Tensor, align: int) -> tuple[list[torch.Tensor], int]:
        """The tiles in the order in which `tiled` meets them, and how many make a row.

        Args:
            padded: The image [1, 3, h, w], without margins.
            align: What positions of tiles are multiples of.
        """
        height, width = padded.shape[-2:]
        if height <= self.tile and width <= self.tile:
            return [padded], 1
        tops = self._starts(height, align)
        lefts = self._starts(width, align)
        tall = min(self.tile, height)
        wide = min(self.tile, width)
        pieces = []
        for top in tops:
            for left in lefts:
                pieces.append(padded[..., top : top + tall, left : left + wide])
        return pieces, len(lefts)

    def _starts(self, length: int, align: int) -> list[int]:
        starts = tile_starts(length, self.tile, self.overlap)
        return [start // align * align for start in starts]

    def run(self, model: SRModel, path: str, tile: torch.Tensor) -> torch.Tensor:
        """[1, 3, h, w] -> [1, 3, 4h, 4w] by one path."""
        if path == "bicubic":
            return upsample(tile)
        if path == "cnn":
            return self.cnn(tile)
        return model.network(tile)

    @torch.no_grad()
    def upscale(
        self,
        model: SRModel,
        lr: torch.Tensor,
        *,
        threshold: float | None = None,
        budget: float | None = None,
        path: str | None = None,
        kept: dict[tuple[int, str], torch.Tensor] | None = None,
    ) -> Routed:
        """Super-resolve [1, 3, h, w] in [0, 1] of any size from 16.

        Args:
            model: What the path "diffusion" runs.
            lr: The low-resolution image.
            threshold: In place of the router's own.
            budget: A share of the MACs of the model on every tile; it chooses the threshold for
                this image.
            path: One of PATHS, for every tile.
            kept: Results by (number of the tile, path), read and filled, for several calls on one
                image.

        Raises:
            UserError: An image or a tile that the model does not take.
        """
        align = model.multiple
        self._check(lr, align)
        height, width = lr.shape[-2:]
        margin = -(-model.tiling.margin // align) * align
        surrounded = surround(lr, margin, align)
        bottom = surrounded.shape[-2] - margin
        right = surrounded.shape[-1] - margin
        pieces, columns = self.pieces(surrounded[..., margin:bottom, margin:right], align)
        tall, wide = pieces[0].shape[-2:]
        costs, overhead = self.costs(model, (tall, wide))
        if path is None:
            share = None if budget is None else budget - overhead / costs[-1].item()
            chosen = self._choose(pieces, costs, threshold, share)
        else:
            chosen = torch.full((len(pieces),), PATHS.index(path))
            overhead = 0
        paths = [PATHS[index] for index in chosen.tolist()]
        results = {} if kept is None else kept
        queue = iter(enumerate(paths))

        def run_next(tile: torch.Tensor) -> torch.Tensor:
            key = next(queue)
            if key not in results:
                results[key] = self.run(model, key[1], tile)
            return results[key]

        image = tiled(run_next, surrounded, self.tile, self.overlap, SCALE, align, margin)
        top = margin * SCALE
        image = image[..., top : top + height * SCALE, top : top + width * SCALE]
        return Routed(
            model.fix(tiles=len(pieces) > 1)(image, lr).clamp(0, 1),
            paths,
            columns,
            int(costs[chosen].sum()) + overhead * len(pieces),
            int(costs[-1]) * len(pieces),
        )

    def _check(self, lr: torch.Tensor, align: int) -> None:
        """Refuse an image that cannot be routed, and tiles that do not fit the model."""
        height, width = check_image_tensor(lr).shape[-2:]
        if len(lr) != 1 or min(height, width) < MIN_SIDE:
            raise UserError(
                f"an input of shape {tuple(lr.shape)} cannot be routed; give one image of "
                f"{MIN_SIDE} pixels a side or more"
            )
        if self.tile % align or self.overlap < align:  # places are rounded to multiples of it
            raise UserError(
                f"the router's tiles of {self.tile} pixels with {self.overlap} in common do not "
                f"fit this model, which needs a multiple of {align} and at least {align} in "
                "common; train one for it"
            )

    def _choose(
        self,
        pieces: list[torch.Tensor],
        costs: torch.Tensor,
        threshold: float | None,
        budget: float | None,
    ) -> torch.Tensor:
        """Index into PATHS for every piece, as the regressor predicts what they gain."""
        quality = values(torch.cat([self.regressor(piece) for piece in pieces])).cpu()
        if budget is not None:
            threshold = within_budget(quality, costs, budget)
        elif threshold is None:
            threshold = self.threshold
        return choose(quality, costs, threshold)

    def save(self, path: Path) -> None:
        """Write the router with its sizes and notes as one safetensors file."""
        sizes = {"tile": self.tile, "overlap": self.overlap, "threshold": self.threshold}
        header = {"format": FORMAT, "router": json.dumps(sizes), **self.notes}
        write_tensors(path, self.state_dict(), header)

    @classmethod
    def load(cls, path: str | Path) -> "Router":
        """Read what `save` wrote.

        Raises:
            UserError: It is any other file, or none, or cannot be had from the hub.
        """
        file = local_file(path)
        if not file.is_file():
            raise UserError(f"{path}: no router here; {MAKE_ONE}")
        header = read_metadata(file)
        if header.pop("format", None) != FORMAT or "router" not in header:
            raise UserError(f"{path}: is not a router; {MAKE_ONE}")
        remedy = "the router is damaged: make it again with python -m compress.route train"
        sizes = parse_json(header.pop("router"), str(path), remedy)
        check_shape(sizes, Sizes, str(path), remedy)
        router = cls(sizes["tile"], sizes["overlap"], sizes["threshold"])
        router.notes = header
        read_tensors(router, file)
        return router.eval().requires_grad_(False)
