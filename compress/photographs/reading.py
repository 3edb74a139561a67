"""One photograph, by its own depth, profile and orientation -> 8-bit sRGB."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from . import colour, header, metadata
from .problem import PhotographError, shown

PHOTOMETRIC_TAG = 262
WHITE_IS_ZERO = 0
ROWS = 256  # that are looked at in one go


@dataclass
class Photograph:
    """A photograph as it is computed with.

    Attributes:
        pixels: uint8 [height, width, 3] in sRGB, upright.
        grey: Whether the picture holds no colour.
        one_channel: Whether its file had a mode without colour.
        profiled: Whether the file carried a profile that was used.
        kept: What the file says about itself.
        notes: Remarks for the user, without the file's name.
    """

    pixels: np.ndarray
    grey: bool
    one_channel: bool
    profiled: bool
    kept: metadata.Metadata
    notes: list[str] = field(default_factory=list)


def check(path: Path, convert: bool, max_pixels: int, remedy: str) -> None:
    """Raise PhotographError for what the header of the file shows already."""
    with header.opened(path, max_pixels, remedy=remedy) as image:
        header.check_kind(image, shown(path), convert)


def read(
    path: Path,
    convert: bool = False,
    max_pixels: int = header.MAX_PIXELS,
    min_side: int = header.MIN_SIDE,
    managed: bool = True,
    remedy: str = "give a smaller one",
) -> Photograph:
    """Read one photograph.

    Args:
        path: The file.
        convert: Take what is not 8-bit RGB: grey, palette, CMYK, Lab, alpha (laid on white), 16
            bits and floats in [0, 1] (rounded to 8 bits). Without it such a file is refused.
        max_pixels: Largest width times height.
        min_side: Smallest width and height in pixels.
        managed: Apply the file's colour profile. Metrics compare stored values and do without.
        remedy: What the sentence about a too large picture advises.

    Raises:
        PhotographError: One sentence about the file.
    """
    name = shown(path)
    with header.opened(path, max_pixels, min_side, remedy) as image:
        header.check_kind(image, name, convert)
        depth = header.bits(image)
        image.load()
        notes = _conversions(image, depth)
        icc = image.info.get("icc_profile") if managed else None
        one_channel = header.grey(image)
        kept = metadata.read(image)
        flat = _flat(image, depth, name)
        neutral = one_channel or _neutral(flat)
        flat, profiled, said = colour.to_srgb(flat, icc if isinstance(icc, bytes) else None)
        if kept.orientation != 1:
            flat = flat.transpose(metadata.TURNS[kept.orientation])
        pixels = np.asarray(flat.convert("RGB"))
        notes += [*said, *kept.notes]
        return Photograph(pixels, neutral, one_channel, profiled, kept, notes)


def _conversions(image: Image.Image, depth: int) -> list[str]:
    """What the file loses by becoming 8-bit RGB."""
    notes = []
    if header.transparent(image):
        notes.append("its transparency is laid on white")
    if image.mode == "F":
        notes.append("floats in [0, 1] were rounded to 8 bits")
    elif depth > 8:
        notes.append(f"{depth} bits a channel were reduced to 8")
    if image.format == "MPO":
        notes.append("it holds more pictures; the first is taken")
    return notes


def _flat(image: Image.Image, depth: int, name: str) -> Image.Image:
    """The picture as 8-bit L, RGB, CMYK or LAB, transparency laid on white."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _wide_grey(image, depth, name)
    if header.transparent(image):
        return _on_white(image, depth)
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _wide_grey(image: Image.Image, depth: int, name: str) -> Image.Image:
    """Integers of 9 to 16 bits or floats in [0, 1] -> L, by the file's depth, not its values."""
    values = np.asarray(image)
    scaled = values.astype(np.float32) / np.float32(_white(image, values, depth, name)) * 255
    grey = np.clip(scaled + 0.5, 0, 255).astype(np.uint8)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO:
        grey = 255 - grey
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = 255
    return Image.fromarray(grey)


def _white(image: Image.Image, values: np.ndarray, depth: int, name: str) -> float:
    """The value of white. Raises PhotographError for floats outside of [0, 1]."""
    if image.mode != "F":
        # PPM's values are spread to 16 bits by the decoder; a TIFF of 12 bits keeps its own.
        if image.format in ("PNG", "PPM"):
            return 65535.0
        return 2.0**depth - 1
    if not np.isfinite(values).all():
        raise PhotographError(
            f"{name}: the image contains NaN or infinite values; give one whose pixels are finite"
        )
    low = float(values.min())
    high = float(values.max())
    if low < 0 or high > 1:
        raise PhotographError(
            f"{name}: its floats span [{low:.4g}, {high:.4g}], and white is 1; scale them to [0, 1]"
        )
    return 1.0


def _on_white(image: Image.Image, depth: int) -> Image.Image:
    """Alpha, or the transparent colour, laid on white: L where the file is grey, else RGB."""
    _spread_transparency(image, depth)
    straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
    if straight is not None:  # colours are multiplied by alpha there
        rgba = image.convert(straight).convert("RGBA")
    else:
        rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    laid = Image.alpha_composite(white, rgba).convert("RGB")
    if header.grey(image):
        return laid.convert("L")
    return laid


def _spread_transparency(image: Image.Image, depth: int) -> None:
    """Bring the transparent value to 8 bits; Pillow does so with the pixels only."""
    clear = image.info.get("transparency")
    if isinstance(clear, int) and image.mode == "L":
        if image.format == "PNG" and depth in (2, 4):
            image.info["transparency"] = clear * 255 // (2**depth - 1)
    elif isinstance(clear, tuple) and image.mode == "RGB" and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def _neutral(image: Image.Image) -> bool:
    """Whether every pixel of an RGB image has three equal channels."""
    if image.mode != "RGB":
        return False
    pixels = np.asarray(image)
    for top in range(0, pixels.shape[0], ROWS):
        rows = pixels[top : top + ROWS]
        if (rows[..., :1] != rows[..., 1:]).any():
            return False
    return True
