"""Routed tiles against one path for all tiles, on photographs with their originals."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from compress.core.errors import UserError
from compress.core.image import MIN_SIDE, list_images, read_image
from compress.data.presets import PRESETS
from compress.data.seeded import seeded_pair
from compress.model.sr_model import SRModel
from compress.process.resample import SCALE
from compress.routing.networks import PATHS
from compress.routing.router import Routed, Router

ALIGN = 4 * SCALE  # what the sides of crops of originals are multiples of, in pixels
LEAST_ERROR = 1e-10  # mean square error below which images count as equal: 100 dB


class Photograph(NamedTuple):
    """A photograph to route: LR [1, 3, h, w] and the original [1, 3, 4h, 4w], in [0, 1]."""

    name: str
    lr: torch.Tensor
    hr: torch.Tensor


def open_partners(data: str, lr: str, limit: int | None = None) -> list[Photograph]:
    """Originals with the low-resolution images of the same names.

    Args:
        data: The folder of originals.
        lr: The folder of their partners, each a quarter of the original a side.
        limit: Only the first images.

    Raises:
        UserError: An image is missing, cannot be read, or is of another size.
    """
    photographs = []
    for path in list_images(data)[:limit]:
        hr = read_image(path, convert=True)
        partner = Path(lr) / path.name
        small = read_image(partner, convert=True)
        height, width = small.shape[-2:]
        if (SCALE * height, SCALE * width) != tuple(hr.shape[-2:]):
            raise UserError(
                f"{partner}: {width}x{height} pixels is no quarter of {path.name}'s "
                f"{hr.shape[-1]}x{hr.shape[-2]}"
            )
        photographs.append(Photograph(path.stem, small, hr))
    return photographs


def degrade_originals(
    data: str, degradation: str, seed: int, limit: int | None = None, side: int | None = None
) -> list[Photograph]:
    """Originals with partners that the toolkit makes.

    Args:
        data: The folder of originals.
        degradation: A name of PRESETS.
        seed: Makes the partners repeatable.
        limit: Only the first images.
        side: Centre crops of at most this side, in pixels of the originals.

    Raises:
        UserError: An image cannot be read.
    """
    photographs = []
    for number, path in enumerate(list_images(data)[:limit]):
        hr = _centre_crop(read_image(path, convert=True), side)
        if min(hr.shape[-2:]) < SCALE * MIN_SIDE:
            raise UserError(
                f"{path}: is smaller than {SCALE * MIN_SIDE} pixels a side, which a router needs "
                "of an original; take it out of --data"
            )
        lr = seeded_pair(hr, PRESETS[degradation], seed, number)
        photographs.append(Photograph(path.stem, lr, hr))
    return photographs


def _centre_crop(image: torch.Tensor, side: int | None) -> torch.Tensor:
    """The middle of [1, 3, H, W], with sides that are multiples of ALIGN."""
    whole_height, whole_width = image.shape[-2:]
    height = min(whole_height, side or whole_height) // ALIGN * ALIGN
    width = min(whole_width, side or whole_width) // ALIGN * ALIGN
    top = (whole_height - height) // 2
    left = (whole_width - width) // 2
    return image[..., top : top + height, left : left + width]


@torch.no_grad()
def compare(
    model: SRModel,
    router: Router,
    photographs: list[Photograph],
    lpips: nn.Module | None,
    threshold: float | None = None,
    budget: float | None = None,
) -> dict[str, dict[str, float]]:
    """Means over the images of every path everywhere, and of "routed".

    Args:
        model: What the path "diffusion" runs.
        router: Trained for the model.
        photographs: What is upscaled.
        lpips: Maps two images to a distance; None leaves it out.
        threshold: As `Router.upscale`, for "routed".
        budget: As `Router.upscale`, for "routed".

    Returns:
        For each way "gmacs" of paper MACs, "macs" as a share of the model on every tile, "tiles",
        "psnr" in dB, the tiles of each path, and "lpips".
    """
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in (*PATHS, "routed")}
    for photograph in tqdm(photographs, desc="route eval"):
        kept: dict[tuple[int, str], torch.Tensor] = {}
        for path in PATHS:
            routed = router.upscale(model, photograph.lr, kept=kept, path=path)
            rows[path].append(_score(routed, photograph.hr, lpips))
        routed = router.upscale(model, photograph.lr, kept=kept, threshold=threshold, budget=budget)
        rows["routed"].append(_score(routed, photograph.hr, lpips))
    means = {}
    for way, scores in rows.items():
        means[way] = {key: float(np.mean([row[key] for row in scores])) for key in scores[0]}
    return means


def psnr(image: torch.Tensor, original: torch.Tensor) -> float:
    """In dB, of images in [0, 1]; 100 for equal ones."""
    error = (image - original).square().mean().clamp_min(LEAST_ERROR)
    return -10 * float(torch.log10(error))


def _score(routed: Routed, hr: torch.Tensor, lpips: nn.Module | None) -> dict[str, float]:
    row: dict[str, float] = {
        "gmacs": routed.macs / 1e9,
        "macs": routed.macs / routed.macs_diffusion,
        "tiles": len(routed.paths),
        "psnr": psnr(routed.image, hr),
        **routed.shares(),
    }
    if lpips is not None:
        row["lpips"] = lpips(routed.image, hr).item()
    return row
