"""Five photographs that come inside scikit-image and scikit-learn, reduced by a fixed x4 degradation.

For a demonstration without a network. It is no published protocol: its name is `embedded`, and its figures stand
beside nothing but figures of the same data.
"""

import io
import zlib
from importlib.resources import files

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from compress.core.errors import UserError
from compress.model.sr_model import SCALE

# package, folder inside it, file: read from the installed wheel, so that skimage's downloader never runs
PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}
LARGEST = 512  # pixels
BLUR = 1.2  # sigma, pixels of the large image
NOISE = 3 / 255  # sigma, after the reduction
JPEG = 80  # PIL quality


def high(name: str) -> torch.Tensor:
    """The photograph, float [1, 3, H, W] in [0, 1], cut centrally to multiples of 4 and at most 512 a side."""
    package, inside = PHOTOGRAPHS[name]
    path = files(package) / inside
    if not path.is_file():
        raise UserError(
            f"the embedded photograph '{name}' is not in this {package} ({inside}); "
            f"install a release that ships it, or give --data a folder"
        )
    with path.open("rb") as stream:
        image = np.asarray(Image.open(stream).convert("RGB"))
    height, width = (min(side, LARGEST) // SCALE * SCALE for side in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return _tensor(image[top : top + height, left : left + width])


def low(name: str) -> torch.Tensor:
    """Its x4 reduction [1, 3, H/4, W/4]: blur, PIL bicubic, noise of a seed fixed by the name, JPEG, in this order."""
    image = high(name)[0].permute(1, 2, 0).numpy() * 255  # [H, W, 3], 0..255
    blurred = gaussian_filter(image, sigma=(BLUR, BLUR, 0), mode="reflect")
    height, width = blurred.shape[:2]
    small = np.stack(
        [
            np.asarray(
                Image.fromarray(blurred[..., c]).resize(
                    (width // SCALE, height // SCALE), Image.Resampling.BICUBIC
                )
            )
            for c in range(3)
        ],
        axis=-1,
    )
    noise = np.random.default_rng(zlib.crc32(name.encode())).normal(0, NOISE * 255, small.shape)
    stream = io.BytesIO()
    Image.fromarray(np.uint8(np.clip(np.rint(small + noise), 0, 255))).save(
        stream, "JPEG", quality=JPEG
    )
    return _tensor(np.asarray(Image.open(stream).convert("RGB")))


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None].contiguous()
