"""Low-resolution images that static ranges are calibrated on."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from compress.core.errors import UserError
from compress.core.image import list_images, read_image
from compress.data.degradation import degrade
from compress.data.folder import data_hash, embedded_images
from compress.data.presets import PRESETS
from compress.model.calls import Values
from compress.model.components import Components
from compress.model.references import remember
from compress.process.resample import SCALE

LEVELS = 255  # above black, in a file


def calibration_images(data: str, count: int, size: int, seed: int) -> list[torch.Tensor]:
    """Low-resolution crops, a function of the arguments alone.

    Args:
        data: `embedded` (photographs degraded by the `mild` preset) or a folder of low-resolution
            photographs. A folder with fewer images than `count` gives several crops of each.
        count: How many crops.
        size: Their side in pixels.
        seed: Chooses the crops.

    Returns:
        Float [1, 3, size, size] in [0, 1] each.

    Raises:
        UserError: `count` is 0, or an image is missing, unreadable or smaller than `size`.
    """
    random = _generator(count, seed)
    if data == "embedded":
        return [lr for lr, _ in _embedded_pairs(count, size, seed, random)]
    paths = list_images(data)
    crops = []
    for i in range(count):
        image = read_image(paths[i % len(paths)], min_side=size)
        crops.append(_crop(image, size, random))
    return crops


def as_values(model: Components, images: list[torch.Tensor]) -> list[Values]:
    """Calibration images as what a model takes.

    A model that takes a further image is given another of them for it, resampled to its size: a
    stand-in for a user's own. One that takes references is given as many in turn as it has places,
    from one on.

    Args:
        model: Says which images it takes.
        images: Low-resolution images, float [B, 3, h, w] in [0, 1].

    Returns:
        Values of each image.
    """
    given = []
    for i, lr in enumerate(images):
        others = {}
        for name, size in model.wiring.images.items():
            others[name] = _resampled(images[(i + 1) % len(images)], size)
        references = model.wiring.references
        if references is not None:
            chosen = [images[(i + 1 + k) % len(images)] for k in range(1 + i % references.count)]
            stood_in = [_resampled(other[:1], references.size) for other in chosen]
            with torch.no_grad():
                others |= remember(model, stood_in)
        given.append(model.given(lr, others))
    return given


def _resampled(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)


def calibration_pairs(
    data: str, hr: str | None, count: int, size: int, seed: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """As `calibration_images`, each with the photograph that it came from.

    Args:
        data: `embedded`, or a folder of low-resolution photographs.
        hr: For a folder, the folder with the photographs themselves, four times as large, under the
            same names (any image suffix).
        count: How many pairs.
        size: Side of the low-resolution crops in pixels.
        seed: Chooses the crops.

    Returns:
        (float [1, 3, size, size], float [1, 3, 4 * size, 4 * size]), both in [0, 1], each.

    Raises:
        UserError: As there; also where a photograph is missing or not four times as large.
    """
    random = _generator(count, seed)
    if data == "embedded":
        return _embedded_pairs(count, size, seed, random)
    if hr is None:
        raise UserError(
            f"calibration.hr is not set; target 'hr' needs the folder of photographs that {data} "
            "was made from"
        )
    originals = {path.stem: path for path in list_images(hr)}
    paths = list_images(data)
    pairs = []
    for i in range(count):
        path = paths[i % len(paths)]
        if path.stem not in originals:
            raise UserError(
                f"calibration.hr {hr} has no photograph '{path.stem}' for {path.name} of {data}; "
                "target 'hr' needs one for every image"
            )
        small, large = _read_pair(path, originals[path.stem], size)
        height, width = small.shape[-2:]
        top = int(random.integers(height - size + 1))
        left = int(random.integers(width - size + 1))
        pairs.append(
            (
                _square(small, top, left, size),
                _square(large, SCALE * top, SCALE * left, SCALE * size),
            )
        )
    return pairs


def calibration_hash(data: str) -> str:
    """Identity of the calibration data for caches and ledgers: names and contents of its images."""
    if data == "embedded":
        return f"embedded:{data_hash(embedded_images())}"
    return data_hash(list_images(Path(data)))


def _generator(count: int, seed: int) -> np.random.Generator:
    if count < 1:
        raise UserError(
            "calibration.images is 0; static ranges need at least 1 image (16 or more do well)"
        )
    return np.random.default_rng(seed)


def _embedded_pairs(
    count: int, size: int, seed: int, random: np.random.Generator
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(degraded, photograph) of crops of the embedded photographs."""
    photographs = _embedded(size * SCALE)
    crops = []
    for i in range(count):
        crop = _crop(photographs[i % len(photographs)], size * SCALE, random)
        crops.append(crop.float() / LEVELS)
    generator = torch.Generator().manual_seed(seed)
    return [(degrade(crop, PRESETS["mild"], generator), crop) for crop in crops]


def _embedded(size: int) -> list[torch.Tensor]:
    """The embedded photographs that hold a crop of `size` pixels a side, as `_levels`."""
    photographs = [_levels(path) for path in embedded_images()]
    large = [image for image in photographs if min(image.shape[-2:]) >= size]
    if not large:
        largest = max(min(image.shape[-2:]) for image in photographs)
        raise UserError(
            f"no embedded photograph holds a crop of {size} pixels, the largest has {largest}; "
            "take a smaller size, or a folder of photographs"
        )
    return large


@cache
def _levels(path: Path) -> torch.Tensor:
    """A photograph as uint8 [1, 3, H, W]; kept, for each pass and each export takes crops of it."""
    return (read_image(path, convert=True) * LEVELS).round().to(torch.uint8)


def _read_pair(path: Path, original: Path, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A low-resolution image of `size` or more, and its photograph."""
    small = read_image(path, min_side=size)
    large = read_image(original)
    height, width = small.shape[-2:]
    if large.shape[-2:] != (SCALE * height, SCALE * width):
        raise UserError(
            f"{original}: {large.shape[-1]}x{large.shape[-2]} pixels is not {SCALE} times the "
            f"{width}x{height} of {path}; pair images of one scene"
        )
    return small, large


def _square(image: torch.Tensor, top: int, left: int, size: int) -> torch.Tensor:
    return image[..., top : top + size, left : left + size].contiguous()


def _crop(image: torch.Tensor, size: int, random: np.random.Generator) -> torch.Tensor:
    """A random square of the image."""
    height, width = image.shape[-2:]
    if min(height, width) < size:
        raise UserError(
            f"a calibration photograph of {width}x{height} pixels is smaller than the crop of "
            f"{size}; set a smaller calibration.size"
        )
    top = int(random.integers(height - size + 1))
    left = int(random.integers(width - size + 1))
    return _square(image, top, left, size)
