"""Crops for a report: the worst images first, each where the compressed model's is furthest off."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from compress.core.errors import UserError
from compress.core.image import read_image, to_uint8
from compress.process.resample import upsample
from eval.data.dataset import DataSet, Pair, Read, open_data
from eval.data.folders import DataSpec
from eval.metric.names import in_order, metric_of
from eval.reporting.rundir import Scores

SIDE = 192  # pixels of a crop
MOST = 12  # images in a report
WHOLE_SIDE = 1024  # pixels of the longer side of a whole photograph, at most
# By which a report sorts: the first that has values.
ORDER = ("lpips", "lpips-squeeze", "dists", "lpips-vgg", "musiq", "ssim", "psnr", "niqe")
LOW, HIGH = "small image, bicubic", "original"

Images = dict[str, np.ndarray]  # version -> uint8 [H, W, 3]


@dataclass
class Crop:
    """The same place of every version of one image.

    Attributes:
        name: The image.
        versions: Version -> uint8 [h, w, 3].
        scores: Model -> metric -> value, of the whole image.
    """

    name: str
    versions: Images
    scores: dict[str, dict[str, float | None]] = field(default_factory=dict)


def sorting_metric(scores: Scores) -> str | None:
    """The first metric of ORDER, else of all, that every image has; None where there is none."""
    measured = in_order(metric for row in scores.values() for metric in row)
    for metric in (*ORDER, *measured):
        if scores and all(row.get(metric) is not None for row in scores.values()):
            return metric
    return None


def worst_first(scores: Scores) -> list[str]:
    """Names of images, from the worst by `sorting_metric`; by name where there is none."""
    metric = sorting_metric(scores)
    if metric is None:
        return sorted(scores)
    values = {}
    for name, row in scores.items():
        value = row[metric]
        if value is not None:
            values[name] = value if metric_of(metric).higher else -value
    return sorted(values, key=lambda name: (values[name], name))


def crops(
    names: list[str], restored: dict[str, Path], scores: dict[str, Scores], data: DataSet | None
) -> list[Crop]:
    """Crops of images; an image of which there is no file is left out.

    Args:
        names: The images, of which the first MOST count.
        restored: Folders of PNGs by model; the last model's images are judged.
        scores: Model -> image -> metric -> value.
        data: The data set, for the small image and the original.
    """
    pairs = {pair.name: pair for pair in data.pairs} if data else {}
    found = []
    for name in names[:MOST]:
        images = _restored(name, restored)
        if images:
            versions = _same_place(images, pairs.get(name))
            own = {model: scores[model][name] for model in images if name in scores.get(model, {})}
            found.append(Crop(name, versions, own))
    return found


def whole(
    names: list[str], restored: dict[str, Path], scores: dict[str, Scores], data: DataSet | None
) -> Crop | None:
    """One whole photograph before and after: the small image enlarged, and the last model's.

    Args:
        names: The images, from the worst on; the middle one is shown, which is neither luck nor
            misfortune.
        restored: Folders of PNGs by model.
        scores: Model -> image -> metric -> value.
        data: The data set, for the small image.

    Returns:
        The two versions, reduced where they are large; None where one of them is not there.
    """
    if not names or data is None:
        return None
    name = names[len(names) // 2]
    images = _restored(name, restored)
    pair = next((pair for pair in data.pairs if pair.name == name), None)
    if not images:
        return None
    model, after = list(images.items())[-1]
    before = _around(pair, after.shape).get(LOW)
    if before is None:
        return None
    own = {model: scores[model][name]} if name in scores.get(model, {}) else {}
    return Crop(name, {LOW: _reduced(before), model: _reduced(after)}, own)


def _reduced(image: np.ndarray) -> np.ndarray:
    """`image`, uint8 [H, W, 3], with sides of at most WHOLE_SIDE."""
    picture = Image.fromarray(image)
    picture.thumbnail((WHOLE_SIDE, WHOLE_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _restored(name: str, folders: dict[str, Path]) -> Images:
    found = {}
    for model, folder in folders.items():
        file = folder / f"{name}.png"
        if file.is_file():
            found[model] = to_uint8(read_image(file))
    return found


def _same_place(images: Images, pair: Pair | None) -> Images:
    """The window of all versions in which the last of `images` is furthest off."""
    judged = list(images.values())[-1]
    extra = _around(pair, judged.shape)
    top, left = furthest(judged, extra.get(HIGH, next(iter(images.values()))))
    versions: Images = {}
    if LOW in extra:
        versions[LOW] = extra[LOW]
    versions |= images
    if HIGH in extra:
        versions[HIGH] = extra[HIGH]
    return {label: image[top : top + SIDE, left : left + SIDE] for label, image in versions.items()}


def furthest(image: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """Top left of the SIDE x SIDE window in which two images differ most.

    Args:
        image: uint8 [H, W, 3].
        other: The same place in another version.

    Returns:
        Row and column; the middle where the images are equal.
    """
    height, width = image.shape[:2]
    rows = max(1, height - SIDE + 1)
    columns = max(1, width - SIDE + 1)
    gap = np.abs(image.astype(np.int32) - other).sum(-1)
    if not gap.any():
        return (rows - 1) // 2, (columns - 1) // 2
    total = np.pad(gap.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    h, w = min(SIDE, height), min(SIDE, width)
    sums = total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]  # [rows, columns]
    top, left = np.unravel_index(sums.argmax(), sums.shape)
    return int(top), int(left)


def data_of(recipe: dict[str, Any], name: str) -> DataSet | None:
    """The data set of a recipe's evaluation under its name in the results.

    Returns:
        The data set; None where its folder is not here any more.
    """
    for entry in recipe["eval"]["data"]:
        try:
            data = open_entry(entry)
        except UserError:
            continue
        if data.name == name:
            return data
    return None


def open_entry(entry: str | dict[str, Any], limit: int | None = None) -> DataSet:
    """The data set of an entry of a recipe's `eval.data`.

    Args:
        entry: `embedded`, a folder, or {name, path, protocol} of a published data set.
        limit: Use the first images alone.
    """
    if isinstance(entry, str):
        return open_data(entry, limit=limit)
    spec = DataSpec(f"{entry['name']}={entry['path']}", protocol=entry.get("protocol"))
    return open_data(spec, limit=limit)


def _around(pair: Pair | None, shape: tuple[int, ...]) -> Images:
    """The small image enlarged and the original, where they are there and fit."""
    if pair is None:
        return {}
    found = {LOW: _read(pair.lr, enlarge=True), HIGH: _read(pair.hr, enlarge=False)}
    return {
        label: image for label, image in found.items() if image is not None and image.shape == shape
    }


def _read(source: Read | None, enlarge: bool) -> np.ndarray | None:
    """uint8 [H, W, 3]; None where there is no image or it cannot be read."""
    if source is None:
        return None
    try:
        image = source()
    except UserError:
        return None
    return to_uint8(upsample(image).clamp(0, 1) if enlarge else image)
