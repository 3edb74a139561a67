"""Photographs as tensors: 8-bit RGB files <-> float tensors [1, 3, H, W] in [0, 1]."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from compress.core.errors import UserError
from compress.core.files import replacing
from compress.core.hub import local_folder
from compress.photographs import reading
from compress.photographs.header import MAX_PIXELS, MIN_SIDE, SUFFIXES
from compress.photographs.problem import PhotographError

__all__ = [
    "MIN_SIDE",
    "SUFFIXES",
    "check_image_tensor",
    "list_images",
    "read_image",
    "to_uint8",
    "write_image",
]


ROUNDING = 1e-3  # how far beyond [0, 1] a value may lie


def read_image(path: str | Path, convert: bool = False, min_side: int = MIN_SIDE) -> torch.Tensor:
    """Read one photograph as float32 [1, 3, H, W] in [0, 1], EXIF orientation applied.

    The values are those in the file: metrics and calibration compare stored pixels, so a colour
    profile is not applied (`compress.upscale` does). Grayscale, palette, RGBA, CMYK, float and
    16-bit files are refused unless `convert`, which makes them 8-bit RGB (transparency laid on
    white, 16 bits scaled by the file's depth).

    Raises:
        UserError: For these, and for a missing, empty, truncated, animated, non-image, too small
            or too large file.
    """
    try:
        photograph = reading.read(Path(path), convert, MAX_PIXELS, min_side, managed=False)
    except PhotographError as error:
        raise UserError(str(error)) from None
    array = photograph.pixels.astype(np.float32) / 255.0
    return torch.from_numpy(array).permute(2, 0, 1).unsqueeze(0).contiguous()


def check_image_tensor(image: torch.Tensor, where: str = "the input image") -> torch.Tensor:
    """Raise UserError unless `image` is a finite float [B, 3, H, W] tensor in [0, 1]."""
    if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape:
        raise UserError(
            f"{where}: has shape {tuple(image.shape)}; expected [batch, 3, height, width]"
        )
    if not image.is_floating_point():
        raise UserError(f"{where}: has dtype {image.dtype}; expected floating point in [0, 1]")
    if not torch.isfinite(image).all():
        raise UserError(f"{where}: contains NaN or infinite values; expected [0, 1]")
    low = image.min().item()
    high = image.max().item()
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise UserError(f"{where}: values span [{low:.3g}, {high:.3g}]; expected [0, 1]")
    return image


def to_uint8(image: torch.Tensor) -> np.ndarray:
    """[1, 3, H, W] or [3, H, W] in [0, 1] -> uint8 [H, W, 3], rounded to nearest."""
    image = image.detach().squeeze(0).clamp(0, 1).mul(255).round().to(torch.uint8)
    return image.permute(1, 2, 0).cpu().numpy()


def write_image(image: torch.Tensor | np.ndarray, path: str | Path) -> None:
    """Write an image whole or not at all.

    Args:
        image: Float [1, 3, H, W] in [0, 1], or uint8 [H, W, 3].
        path: The file; its suffix chooses the format. Folders above it are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = image if isinstance(image, np.ndarray) else to_uint8(image)
    with replacing(path) as partial:
        Image.fromarray(pixels).save(partial)


def list_images(folder: str | Path) -> list[Path]:
    """The image files directly in `folder`, sorted by name. Raises UserError if there are none.

    Args:
        folder: A folder, or the name of a data set of the hub.
    """
    folder = local_folder(folder, SUFFIXES, "dataset")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of images")
    images = []
    for path in folder.iterdir():
        hidden = path.name.startswith(".")
        if path.suffix.lower() in SUFFIXES and not hidden:
            images.append(path)
    if not images:
        raise UserError(f"{folder}: holds no image; expected {', '.join(SUFFIXES)} files")
    return sorted(images)
