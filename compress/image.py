"""Reading and writing photographs: 8-bit RGB files <-> float tensors [1, 3, H, W] in [0, 1]."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from compress.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
MIN_SIDE = 16
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I", "F")


def read_image(path: str | Path, convert: bool = False, min_side: int = MIN_SIDE) -> torch.Tensor:
    """Read one photograph as float32 [1, 3, H, W] in [0, 1], EXIF orientation applied.

    Grayscale, palette, RGBA and 16-bit files are refused unless `convert`, which makes them 8-bit RGB
    (transparency laid on white, 16 bit scaled down). Raises UserError for these and for a missing,
    empty, truncated, non-image or too small file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such image file; give an existing {', '.join(SUFFIXES)} file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty (0 bytes); give a complete image")
    try:
        with Image.open(path) as image:
            image.load()
            image = ImageOps.exif_transpose(image)
            image = _to_rgb(image, path, convert)
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image that can be read; give a {', '.join(SUFFIXES)} file") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: the image is damaged or truncated ({error}); give a complete file") from None
    if min(image.size) < min_side:
        raise UserError(f"{path}: {image.width}x{image.height} pixels is too small; "
                        f"both sides must be at least {min_side}")
    array = np.asarray(image, dtype=np.float32) / 255.0
    return torch.from_numpy(array).permute(2, 0, 1).unsqueeze(0).contiguous()


def _to_rgb(image: Image.Image, path: Path, convert: bool) -> Image.Image:
    if image.mode == "RGB":
        return image
    if not convert:
        kind = {"L": "grayscale", "LA": "grayscale with alpha", "RGBA": "RGBA (with an alpha channel)",
                "P": "a palette image", "1": "a 1-bit image", "CMYK": "CMYK"}.get(image.mode, f"mode {image.mode}")
        if image.mode in _SIXTEEN_BIT:
            kind = f"a 16-bit or float grayscale image (mode {image.mode})"
        raise UserError(f"{path}: the image is {kind}, the model takes 8-bit RGB; "
                        "convert the file, or pass --convert to have it converted while reading")
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise UserError(f"{path}: the image contains NaN or infinite values; give one whose pixels are finite")
        top = 65535.0 if values.max() > 255 else 1.0 if image.mode == "F" and values.max() <= 1 else 255.0
        return Image.fromarray(np.uint8(np.clip(values / top * 255.0 + 0.5, 0, 255))).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def check_image_tensor(image: torch.Tensor, where: str = "the input image") -> torch.Tensor:
    """Raise UserError unless `image` is a finite float [B, 3, H, W] tensor in [0, 1]."""
    if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape:
        raise UserError(f"{where}: has shape {tuple(image.shape)}; expected [batch, 3, height, width]")
    if not image.is_floating_point():
        raise UserError(f"{where}: has dtype {image.dtype}; expected floating point in [0, 1]")
    if not torch.isfinite(image).all():
        raise UserError(f"{where}: contains NaN or infinite values; expected [0, 1]")
    low, high = image.min().item(), image.max().item()
    if low < -1e-3 or high > 1 + 1e-3:
        raise UserError(f"{where}: values span [{low:.3g}, {high:.3g}]; expected [0, 1]")
    return image


def to_uint8(image: torch.Tensor) -> np.ndarray:
    """[1, 3, H, W] or [3, H, W] in [0, 1] -> uint8 [H, W, 3], rounded to nearest."""
    image = image.detach().squeeze(0).clamp(0, 1).mul(255).round().to(torch.uint8)
    return image.permute(1, 2, 0).cpu().numpy()


def write_image(image: torch.Tensor | np.ndarray, path: str | Path) -> None:
    """Write [1, 3, H, W] in [0, 1], or uint8 [H, W, 3], under `path`, through a temporary name so that no half file remains."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        Image.fromarray(image if isinstance(image, np.ndarray) else to_uint8(image)).save(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def list_images(folder: str | Path) -> list[Path]:
    """The image files directly in `folder`, sorted by name. Raises UserError if there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of images")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not found:
        raise UserError(f"{folder}: holds no image; expected {', '.join(SUFFIXES)} files")
    return found
