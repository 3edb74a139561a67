"""Tiles of a large image by different paths: bicubic, a small CNN, or the model itself, each where it pays.

AdaDiffSR predicts the gain I_i = tanh(R_i - R_{i-1}) of every step of a diffusion from the image, by a small
convolutional network and global pooling, and stops where nothing is gained. Here, as the one-step form of the idea, the
steps are the paths in the order of their cost, and R is the quality that compress/route.py measured.

A 512x512 image takes 25 tiles of 128 at a stride of 96. Tiles are blended in pixels with Gaussian weights; the model's
colour correction follows once over the whole, and nothing else is taken from a tile's own statistics. Tiles at the
image's borders are run with a reflection beyond them (`Tiling.margin`); MACs are counted without it.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn
from typing_extensions import TypedDict

from compress.core.errors import UserError
from compress.core.headers import read_metadata
from compress.core.image import MIN_SIDE, check_image_tensor
from compress.core.json_files import check_shape, parse_json
from compress.core.tensors import read_tensors
from compress.core.weight_file import write_tensors
from compress.process.padding import surround
from compress.process.resample import SCALE, upsample
from compress.process.tiling import tile_starts, tiled

if TYPE_CHECKING:
    from compress.model.sr_model import SRModel

PATHS = ("bicubic", "cnn", "diffusion")  # in the order of their cost
FORMAT = "diffusion-sr-compress-router/1"


class TileCNN(nn.Module):
    """As ESPCN (arXiv 1609.05158), on top of bicubic and a little deeper: [B, 3, h, w] in [0, 1] -> [B, 3, 4h, 4w]."""

    def __init__(self, width: int = 24, depth: int = 3):
        super().__init__()
        self.conv_in = nn.Conv2d(3, width, 5, padding=2)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.conv_out = nn.Conv2d(width, 3 * SCALE**2, 3, padding=1)
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        """Let it be bicubic."""
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv_in(lr - 0.5))
        for conv in self.convs:
            x = F.relu(conv(x))
        return upsample(lr) + F.pixel_shuffle(self.conv_out(x), SCALE)


class GainRegressor(nn.Module):
    """[B, 3, h, w] in [0, 1], any size from 16 -> [B, 2]: what CNN and diffusion add to the quality R of the path
    before (-LPIPS, or PSNR / 10 dB). The gain is its tanh."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.head = nn.Linear(4 * width, len(PATHS) - 1)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(lr - 0.5))))
        return self.head(F.relu(self.conv3(x)).mean((2, 3)))


def values(steps: torch.Tensor) -> torch.Tensor:
    """R of every path over bicubic's, [N, 3], from the differences between neighbours, [N, 2]."""
    return F.pad(steps.double().cumsum(1), (1, 0))


def choose(quality: torch.Tensor, costs: torch.Tensor, threshold: float) -> torch.Tensor:
    """Index into PATHS for every tile, int64 [N]: the best of `quality` [N, 3] less `threshold` for the cost of one run
    of the model. `costs` [3] are MACs; of equals the cheaper path is taken."""
    return (quality - threshold * costs / costs[-1]).argmax(1)


def thresholds(quality: torch.Tensor, costs: torch.Tensor) -> torch.Tensor:
    """Every threshold of 0 or more at which `choose` changes, ascending, each a little above the change; 0 first."""
    gains, prices = (
        quality[:, :, None] - quality[:, None],
        (costs[:, None] - costs[None]) / costs[-1],
    )
    dearer = prices > 0
    points = gains[:, dearer] / prices[dearer]
    return torch.cat([points.new_zeros(1), points[points >= 0].unique() * (1 + 1e-9) + 1e-12])


def within_budget(quality: torch.Tensor, costs: torch.Tensor, budget: float) -> float:
    """The lowest threshold at which all tiles together cost at most `budget` of running the model on each."""
    points = thresholds(quality, costs)
    fits = [
        costs[choose(quality, costs, p.item())].sum() <= budget * len(quality) * costs[-1]
        for p in points
    ]
    return points[fits.index(True)].item() if True in fits else points[-1].item()


@dataclass
class Routed:
    """`image` [1, 3, 4h, 4w] in [0, 1]; the path of every tile, in rows of `columns`; paper MACs, those of the
    regressor included, and of the model on every tile."""

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
    """CNN and regressor, for tiles of `tile` pixels that share `overlap` with their neighbours. `threshold` is the
    quality that one run of the model on a tile must bring, in the unit of R, where no other is asked for."""

    def __init__(self, tile: int = 128, overlap: int = 32, threshold: float = 0.0):
        super().__init__()
        self.cnn, self.regressor = TileCNN(), GainRegressor()
        self.tile, self.overlap, self.threshold = tile, overlap, threshold
        self.notes: dict[str, str] = {}  # what it was trained on and how well it predicts
        self._costs: dict[tuple, torch.Tensor] = {}

    def costs(self, model: "SRModel", size: tuple[int, int]) -> tuple[torch.Tensor, int]:
        """Paper MACs of each path on one tile, float64 [3], and of the regressor. Resampling is not counted."""
        from compress.cost.count import measure, measure_module

        key = (id(model), size)
        if key not in self._costs:
            tile = torch.empty(1, 3, *size, device="meta")
            own = [
                measure_module(m, tile, name="router").macs_paper
                for m in (self.cnn, self.regressor)
            ]
            self._costs[key] = torch.tensor(
                [0, own[0], measure(model, size).macs_paper, own[1]]
            ).double()
        found = self._costs[key]
        return found[:3], int(found[3])

    def pieces(self, padded: torch.Tensor, align: int) -> tuple[list[torch.Tensor], int]:
        """The tiles in the order in which `tiled` meets them, and how many make a row."""
        height, width = padded.shape[-2:]
        if height <= self.tile and width <= self.tile:
            return [padded], 1
        rows, columns = (
            [s // align * align for s in tile_starts(n, self.tile, self.overlap)]
            for n in (height, width)
        )
        return [
            padded[..., top : top + min(self.tile, height), left : left + min(self.tile, width)]
            for top in rows
            for left in columns
        ], len(columns)

    def run(self, model: "SRModel", path: str, tile: torch.Tensor) -> torch.Tensor:
        """[1, 3, h, w] -> [1, 3, 4h, 4w] by one path."""
        return {"bicubic": upsample, "cnn": self.cnn, "diffusion": model.network}[path](tile)

    @torch.no_grad()
    def upscale(
        self,
        model: "SRModel",
        lr: torch.Tensor,
        *,
        threshold: float | None = None,
        budget: float | None = None,
        path: str | None = None,
        kept: dict[tuple[int, str], torch.Tensor] | None = None,
    ) -> Routed:
        """Super-resolve [1, 3, h, w] in [0, 1] of any size from 16.

        `threshold` overrides the router's own; `budget`, a share of the MACs of the model on every tile, chooses it for
        this image; `path` sends every tile one way. `kept` holds tiles by (number, path) between calls on one image.
        Raises UserError for a tile that the model does not take.
        """
        height, width = check_image_tensor(lr).shape[-2:]
        if len(lr) != 1 or min(height, width) < MIN_SIDE:
            raise UserError(
                f"an input of shape {tuple(lr.shape)} cannot be routed; give one image of {MIN_SIDE} "
                "pixels a side or more"
            )
        align = model.multiple
        if self.tile % align or self.overlap < align:  # places are rounded to multiples of it
            raise UserError(
                f"the router's tiles of {self.tile} pixels with {self.overlap} in common do not fit this "
                f"model, which needs a multiple of {align} and at least {align} in common; train one for it"
            )
        margin = -(-model.tiling.margin // align) * align
        surrounded = surround(lr, margin, align)
        padded = surrounded[
            ..., margin : surrounded.shape[-2] - margin, margin : surrounded.shape[-1] - margin
        ]
        pieces, columns = self.pieces(padded, align)
        costs, overhead = self.costs(model, tuple(pieces[0].shape[-2:]))
        if path is None:
            quality = values(torch.cat([self.regressor(piece) for piece in pieces])).cpu()
            if budget is not None:
                threshold = within_budget(quality, costs, budget - overhead / costs[-1].item())
            chosen = choose(quality, costs, self.threshold if threshold is None else threshold)
        else:
            chosen, overhead = torch.full((len(pieces),), PATHS.index(path)), 0
        kept, queue = {} if kept is None else kept, iter(enumerate(chosen.tolist()))

        def piece(tile: torch.Tensor) -> torch.Tensor:
            number, index = next(queue)
            key = (number, PATHS[index])
            if key not in kept:
                kept[key] = self.run(model, PATHS[index], tile)
            return kept[key]

        image = tiled(piece, surrounded, self.tile, self.overlap, SCALE, align, margin)
        top = margin * SCALE
        image = image[..., top : top + height * SCALE, top : top + width * SCALE]
        return Routed(
            model.fix(tiles=len(pieces) > 1)(image, lr).clamp(0, 1),
            [PATHS[i] for i in chosen],
            columns,
            int(costs[chosen].sum()) + overhead * len(pieces),
            int(costs[-1]) * len(pieces),
        )

    def save(self, path: Path) -> None:
        header = {
            "format": FORMAT,
            "router": json.dumps(
                {"tile": self.tile, "overlap": self.overlap, "threshold": self.threshold}
            ),
            **self.notes,
        }
        write_tensors(path, self.state_dict(), header)

    @classmethod
    def load(cls, path: str | Path) -> "Router":
        """Read what `save` wrote. Raises UserError for any other file."""
        if not Path(path).is_file():
            raise UserError(f"{path}: no router here; make one with python -m compress.route train")
        header = read_metadata(Path(path))
        if header.pop("format", None) != FORMAT or "router" not in header:
            raise UserError(
                f"{path}: is not a router; make one with python -m compress.route train"
            )
        remedy = "the router is damaged: make it again with python -m compress.route train"
        sizes = parse_json(header.pop("router"), str(path), remedy)
        check_shape(sizes, Sizes, str(path), remedy)
        router = cls(**{name: sizes[name] for name in Sizes.__annotations__})
        router.notes = header
        read_tensors(router, Path(path))
        return router.eval().requires_grad_(False)
