"""Five photographs inside scikit-image and scikit-learn, reduced x4 by a fixed degradation.

For a demonstration without a network. It is no published protocol: its name is `embedded`, and its
figures stand beside nothing but figures of the same data.
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

# Package and file inside it, read as installed: skimage's downloader never runs.
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
    """The photograph, cut centrally to multiples of 4 and at most LARGEST a side.

    Args:
        name: A key of PHOTOGRAPHS.

    Returns:
        Float [1, 3, H, W] in [0, 1].

    Raises:
        UserError: The installed package does not bring the photograph.
    """
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
    top = (image.shape[0] - height) // 2
    left = (image.shape[1] - width) // 2
    return _tensor(image[top : top + height, left : left + width])


def low(name: str) -> torch.Tensor:
    """The photograph's x4 reduction.

    It is blurred, reduced by PIL's bicubic, has noise added whose seed is fixed by the name, and is
    written as JPEG, in this order.

    Args:
        name: A key of PHOTOGRAPHS.

    Returns:
        Float [1, 3, H/4, W/4] in [0, 1].
    """
    image = high(name)[0].permute(1, 2, 0).numpy() * 255  # [H, W, 3], 0..255
    blurred = gaussian_filter(image, sigma=(BLUR, BLUR, 0), mode="reflect")
    small = np.stack([_reduced(blurred[..., channel]) for channel in range(3)], axis=-1)
    noise = np.random.default_rng(zlib.crc32(name.encode())).normal(0, NOISE * 255, small.shape)
    noisy = np.uint8(np.clip(np.rint(small + noise), 0, 255))
    stream = io.BytesIO()
    Image.fromarray(noisy).save(stream, "JPEG", quality=JPEG)
    return _tensor(np.asarray(Image.open(stream).convert("RGB")))


def _reduced(channel: np.ndarray) -> np.ndarray:
    """[H, W] -> [H/4, W/4] by PIL's antialiased bicubic, in float."""
    height, width = channel.shape
    size = (width // SCALE, height // SCALE)
    return np.asarray(Image.fromarray(channel).resize(size, Image.Resampling.BICUBIC))


def _tensor(image: np.ndarray) -> torch.Tensor:
    """uint8 [H, W, 3] -> float [1, 3, H, W] in [0, 1]."""
    return torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None].contiguous()
