"""Low-resolution images that static ranges are calibrated on."""

from pathlib import Path

import numpy as np
import torch

from compress.data.degradation import PRESETS, degrade
from compress.data.folder import EMBEDDED, data_hash, embedded_images
from compress.errors import UserError
from compress.image import list_images, read_image

def calibration_images(data: str, count: int, size: int, seed: int) -> list[torch.Tensor]:
    """`count` low-resolution crops, float [1, 3, size, size] in [0, 1], a function of the arguments alone.

    `data` is `embedded` (photographs degraded by the `mild` preset) or a folder of low-resolution photographs;
    a folder with fewer images than `count` gives several crops of each.
    """
    if count < 1:
        raise UserError("calibration.images is 0; static ranges need at least 1 image (16 or more do well)")
    random = np.random.default_rng(seed)
    crops = []
    if data == "embedded":
        photographs = [read_image(path, convert=True) for path in embedded_images()]
        for i in range(count):
            crops.append(_crop(photographs[i % len(photographs)], size * 4, random))
        generator = torch.Generator().manual_seed(seed)
        return [degrade(hr, PRESETS["mild"], generator) for hr in crops]
    paths = list_images(data)
    for i in range(count):
        crops.append(_crop(read_image(paths[i % len(paths)], min_side=size), size, random))
    return crops


def calibration_hash(data: str) -> str:
    """Identity of the calibration data for caches and ledgers."""
    return f"embedded:{','.join(EMBEDDED)}" if data == "embedded" else data_hash(list_images(Path(data)))


def _crop(image: torch.Tensor, size: int, random: np.random.Generator) -> torch.Tensor:
    height, width = image.shape[-2:]
    if min(height, width) < size:
        raise UserError(f"a calibration photograph of {width}x{height} pixels is smaller than the crop of {size}; "
                        "set a smaller calibration.size")
    top, left = int(random.integers(height - size + 1)), int(random.integers(width - size + 1))
    return image[..., top:top + size, left:left + size].contiguous()
