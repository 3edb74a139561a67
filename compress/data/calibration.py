"""Low-resolution images that static ranges are calibrated on."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from compress.data.degradation import PRESETS, degrade
from compress.data.folder import data_hash
from compress.errors import UserError
from compress.image import list_images, read_image

# Photographs inside the scikit-image wheel that the embedded evaluation does not use.
EMBEDDED = ("motorcycle_left.png", "rocket.jpg", "retina.jpg", "ihc.png", "hubble_deep_field.jpg")


def embedded_photographs() -> list[tuple[str, np.ndarray]]:
    """(name, uint8 [H, W, 3]) of the calibration photographs; no download is ever tried."""
    folder = files("skimage") / "data"
    found = []
    for name in EMBEDDED:
        if not (folder / name).is_file():
            raise UserError(f"calibration photograph {name} is not in the installed scikit-image; install a release "
                            "that ships it, or set calibration.data to a folder of low-resolution photographs")
        with (folder / name).open("rb") as stream:
            found.append((name, np.asarray(Image.open(stream).convert("RGB"))))
    return found


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
        photographs = embedded_photographs()
        for i in range(count):
            pixels = photographs[i % len(photographs)][1]
            crops.append(_crop(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255, size * 4, random))
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
