"""Crops for a report: the worst images first, each where the compressed model's image is furthest off."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.core.errors import UserError
from compress.core.image import read_image, to_uint8
from compress.process.resample import upsample
from eval.data.dataset import DataSet, Pair, open_data
from eval.data.folders import DataSpec
from eval.metric.metrics import METRICS
from eval.reporting.rundir import Scores

SIDE = 192  # pixels of a crop
MOST = 12  # images in a report
# by which a report sorts: the first that has values
ORDER = ("lpips", "lpips-squeeze", "dists", "lpips-vgg", "musiq", "ssim", "psnr", "niqe")
LOW, HIGH = "small image, bicubic", "original"


@dataclass
class Crop:
    """One image: the same place of every version, uint8 [h, w, 3], and each model's scores of the whole image."""

    name: str
    versions: dict[str, np.ndarray]
    scores: dict[str, dict[str, float | None]] = field(default_factory=dict)


def sorting_metric(scores: Scores) -> str | None:
    """The metric of ORDER, else any, that every image has."""
    has = [m for m in METRICS if scores and all(row.get(m) is not None for row in scores.values())]
    return next((m for m in ORDER if m in has), has[0] if has else None)


def worst_first(scores: Scores) -> list[str]:
    """Names of images, from the worst by `sorting_metric`; by name where there is none."""
    metric = sorting_metric(scores)
    if metric is None:
        return sorted(scores)
    sign = 1 if METRICS[metric].higher else -1
    return sorted(scores, key=lambda name: (sign * scores[name][metric], name))


def crops(
    names: list[str], restored: dict[str, Path], scores: dict[str, Scores], data: DataSet | None
) -> list[Crop]:
    """Crops of `names`; `restored` are folders of PNGs by model, the last of which is judged. Missing files are left
    out."""
    pairs = {pair.name: pair for pair in data.pairs} if data else {}
    found = []
    for name in names[:MOST]:
        files = {model: folder / f"{name}.png" for model, folder in restored.items()}
        images = {
            model: to_uint8(read_image(file)) for model, file in files.items() if file.is_file()
        }
        if not images:
            continue
        judged = list(images.values())[-1]
        extra = _around(pairs.get(name), judged.shape)
        other = extra.get(HIGH, next(iter(images.values())))
        top, left = furthest(judged, other)
        versions = {
            k: v
            for k, v in ((LOW, extra.get(LOW)), *images.items(), (HIGH, extra.get(HIGH)))
            if v is not None
        }
        found.append(
            Crop(
                name,
                {k: v[top : top + SIDE, left : left + SIDE] for k, v in versions.items()},
                {model: scores[model][name] for model in images if name in scores.get(model, {})},
            )
        )
    return found


def furthest(image: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """Top left of the SIDE x SIDE window in which two uint8 [H, W, 3] images differ most; the middle if they are
    equal."""
    height, width = image.shape[:2]
    rows, columns = max(1, height - SIDE + 1), max(1, width - SIDE + 1)
    gap = np.abs(image.astype(np.int32) - other).sum(-1)
    if not gap.any():
        return (rows - 1) // 2, (columns - 1) // 2
    total = np.pad(gap.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    h, w = min(SIDE, height), min(SIDE, width)
    sums = total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]  # [rows, columns]
    top, left = np.unravel_index(sums.argmax(), sums.shape)
    return int(top), int(left)


def data_of(recipe: dict[str, Any], name: str) -> DataSet | None:
    """The data set of a recipe's evaluation under its name in the results; None where its folder is not here any
    more."""
    for entry in recipe["eval"]["data"]:
        try:
            data = open_entry(entry)
        except UserError:
            continue
        if data.name == name:
            return data
    return None


def open_entry(entry: str | dict[str, Any], limit: int | None = None) -> DataSet:
    """An entry of a recipe's `eval.data`: `embedded`, a folder, or {name, path, protocol} of a published data set."""
    if isinstance(entry, str):
        return open_data(entry, limit=limit)
    spec = DataSpec(f"{entry['name']}={entry['path']}", protocol=entry.get("protocol"))
    return open_data(spec, limit=limit)


def _around(pair: Pair | None, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The small image enlarged and the original, where they are there and fit."""

    def read(source: Callable[[], torch.Tensor] | None) -> torch.Tensor | None:
        try:
            return source() if source else None
        except UserError:
            return None

    if pair is None:
        return {}
    low, high = read(pair.lr), read(pair.hr)
    found = {
        LOW: to_uint8(upsample(low).clamp(0, 1)) if low is not None else None,
        HIGH: to_uint8(high) if high is not None else None,
    }
    return {k: v for k, v in found.items() if v is not None and v.shape == shape}
