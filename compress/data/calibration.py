"""Low-resolution images that static ranges are calibrated on."""

from pathlib import Path

import numpy as np
import torch

from compress.core.errors import UserError
from compress.core.image import list_images, read_image
from compress.data.degradation import PRESETS, degrade
from compress.data.folder import data_hash, embedded_images
from compress.process.resample import SCALE


def calibration_images(data: str, count: int, size: int, seed: int) -> list[torch.Tensor]:
    """`count` low-resolution crops, float [1, 3, size, size] in [0, 1], a function of the arguments alone.

    `data` is `embedded` (photographs degraded by the `mild` preset) or a folder of low-resolution photographs;
    a folder with fewer images than `count` gives several crops of each.
    """
    if count < 1:
        raise UserError(
            "calibration.images is 0; static ranges need at least 1 image (16 or more do well)"
        )
    random = np.random.default_rng(seed)
    crops = []
    if data == "embedded":
        photographs = _embedded(size * SCALE)
        for i in range(count):
            crops.append(_crop(photographs[i % len(photographs)], size * SCALE, random))
        generator = torch.Generator().manual_seed(seed)
        return [degrade(hr, PRESETS["mild"], generator) for hr in crops]
    paths = list_images(data)
    for i in range(count):
        crops.append(_crop(read_image(paths[i % len(paths)], min_side=size), size, random))
    return crops


def calibration_pairs(
    data: str, hr: str | None, count: int, size: int, seed: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """As `calibration_images`, each with the photograph [1, 3, 4 * size, 4 * size] that it came from.

    A folder `data` has its photographs in the folder `hr`, under the same names (any image suffix). Raises UserError
    for one that is missing or not four times as large.
    """
    if count < 1:
        raise UserError(
            "calibration.images is 0; static ranges need at least 1 image (16 or more do well)"
        )
    random = np.random.default_rng(seed)
    if data == "embedded":
        photographs = _embedded(size * SCALE)
        crops = [
            _crop(photographs[i % len(photographs)], size * SCALE, random) for i in range(count)
        ]
        generator = torch.Generator().manual_seed(seed)
        return [(degrade(x, PRESETS["mild"], generator), x) for x in crops]
    originals = {path.stem: path for path in list_images(hr)}
    paths, pairs = list_images(data), []
    for i in range(count):
        path = paths[i % len(paths)]
        if path.stem not in originals:
            raise UserError(
                f"calibration.hr {hr} has no photograph '{path.stem}' for {path.name} of {data}; target "
                "'hr' needs one for every image"
            )
        small, large = read_image(path, min_side=size), read_image(originals[path.stem])
        if [SCALE * side for side in small.shape[-2:]] != list(large.shape[-2:]):
            raise UserError(
                f"{originals[path.stem]}: {large.shape[-1]}x{large.shape[-2]} pixels is not {SCALE} times "
                f"the {small.shape[-1]}x{small.shape[-2]} of {path}; pair images of one scene"
            )
        top, left = (int(random.integers(side - size + 1)) for side in small.shape[-2:])
        pairs.append(
            (
                small[..., top : top + size, left : left + size].contiguous(),
                large[
                    ..., SCALE * top : SCALE * (top + size), SCALE * left : SCALE * (left + size)
                ].contiguous(),
            )
        )
    return pairs


def calibration_hash(data: str) -> str:
    """Identity of the calibration data for caches and ledgers: names and contents of its images."""
    return (
        f"embedded:{data_hash(embedded_images())}"
        if data == "embedded"
        else data_hash(list_images(Path(data)))
    )


def _embedded(size: int) -> list[torch.Tensor]:
    """The embedded photographs that hold a crop of `size` pixels a side."""
    found = [read_image(path, convert=True) for path in embedded_images()]
    large = [image for image in found if min(image.shape[-2:]) >= size]
    if not large:
        raise UserError(
            f"no embedded photograph holds a crop of {size} pixels, the largest has "
            f"{max(min(image.shape[-2:]) for image in found)}; take a smaller size, or a folder of "
            "photographs"
        )
    return large


def _crop(image: torch.Tensor, size: int, random: np.random.Generator) -> torch.Tensor:
    height, width = image.shape[-2:]
    if min(height, width) < size:
        raise UserError(
            f"a calibration photograph of {width}x{height} pixels is smaller than the crop of {size}; "
            "set a smaller calibration.size"
        )
    top, left = int(random.integers(height - size + 1)), int(random.integers(width - size + 1))
    return image[..., top : top + size, left : left + size].contiguous()
