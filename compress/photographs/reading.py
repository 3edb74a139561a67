"""One photograph, by its own depth, profile and orientation -> 8-bit sRGB."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from . import colour, header, metadata
from .problem import PhotographError, shown

PHOTOMETRIC_TAG = 262
WHITE_IS_ZERO = 0


@dataclass
class Photograph:
    """`pixels` is uint8 [height, width, 3] in sRGB, upright.

    `grey` says that the picture holds no colour, `one_channel` that its file had a mode without
    colour. `profiled` says that the file carried a profile that was used. `notes` are remarks for
    the user, without the file's name.
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
        return Photograph(pixels, neutral, one_channel, profiled, kept, notes + said + kept.notes)


def _conversions(image: Image.Image, depth: int) -> list[str]:
    """What the file loses by becoming 8-bit RGB."""
    said = []
    if header.transparent(image):
        said.append("its transparency is laid on white")
    if image.mode == "F":
        said.append("floats in [0, 1] were rounded to 8 bits")
    elif depth > 8:
        said.append(f"{depth} bits a channel were reduced to 8")
    if image.format == "MPO":
        said.append("it holds more pictures; the first is taken")
    return said


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
    if image.mode == "F":
        if not np.isfinite(values).all():
            raise PhotographError(
                f"{name}: the image contains NaN or infinite values; give one "
                "whose pixels are finite"
            )
        low, high = float(values.min()), float(values.max())
        if low < 0 or high > 1:
            raise PhotographError(
                f"{name}: its floats span [{low:.4g}, {high:.4g}], and white is "
                "1; scale them to [0, 1]"
            )
        top = 1.0
    else:
        # PPM's values are spread to 16 bits by the decoder; a TIFF of 12 bits keeps its own.
        top = 65535.0 if image.format in ("PNG", "PPM") else 2.0**depth - 1
    scaled = values.astype(np.float32) / np.float32(top) * 255
    grey = np.uint8(np.clip(scaled + 0.5, 0, 255))
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO:
        grey = 255 - grey
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = 255
    return Image.fromarray(grey)


def _on_white(image: Image.Image, depth: int) -> Image.Image:
    """Alpha, or the transparent colour, laid on white: L where the file is grey, else RGB."""
    one_channel = header.grey(image)
    clear = image.info.get("transparency")
    # Pillow spreads the pixels over 8 bits and leaves the transparent value at the file's depth.
    if image.format == "PNG" and image.mode == "L" and isinstance(clear, int) and depth in (2, 4):
        image.info["transparency"] = clear * 255 // (2**depth - 1)
    elif image.mode == "RGB" and isinstance(clear, tuple) and depth == 16:
        image.info["transparency"] = tuple(v >> 8 for v in clear)
    if image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    rgba = image.convert("RGBA")
    laid = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return laid.convert("RGB").convert("L") if one_channel else laid.convert("RGB")


def _neutral(image: Image.Image) -> bool:
    """Whether every pixel of an RGB image has three equal channels."""
    if image.mode != "RGB":
        return False
    pixels = np.asarray(image)
    for top in range(0, pixels.shape[0], 256):
        rows = pixels[top : top + 256]
        if (rows[..., 0] != rows[..., 1]).any() or (rows[..., 0] != rows[..., 2]).any():
            return False
    return True
