"""A result becomes a file: its format, what the source said about itself, never over anything."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from . import metadata
from .colour import srgb_profile
from .problem import CannotWrite, PhotographError, shown
from .reading import Photograph

# Name: suffix, default quality, longest side of the format in pixels.
FORMATS = {
    "png": (".png", None, 2**31 - 1),
    "jpeg": (".jpg", 95, 65500),
    "webp": (".webp", 95, 16383),
    "tiff": (".tif", None, 2**31 - 1),
    "avif": (".avif", 90, 65535),
}
BIG_TIFF = 3 * 2**30  # bytes of pixels from which on a TIFF has 64-bit offsets
MOST_JPEG_EXIF, MOST_JPEG_XMP = 65533, 65500
XMP_TAG = 700
_UNWRITABLE = (
    ValueError,
    RuntimeError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
    struct.error,
)


def to_bytes(result: np.ndarray) -> np.ndarray:
    """[1, 3, H, W] in [0, 1] -> uint8 [H, W, 3], in strips, rounded; uint8 stays as it is.

    Raises:
        PhotographError: The values are not finite.
    """
    if result.dtype == np.uint8:
        return result
    planes = result[0]
    pixels = np.empty((*planes.shape[1:], 3), np.uint8)
    for top in range(0, planes.shape[1], 256):
        strip = planes[:, top : top + 256].astype(np.float32)
        if not np.isfinite(strip).all():
            raise PhotographError("the model gave values that are not finite")
        pixels[top : top + 256] = np.rint(strip.clip(0, 1) * 255).transpose(1, 2, 0)
    return pixels


def check_size(size: tuple[int, int], kind: str, name: str) -> None:
    """Raise PhotographError where a result of `size` (width, height) is past the format's sides."""
    longest = FORMATS[kind][2]
    if max(size) > longest:
        raise PhotographError(
            f"{name}: the result has {size[0]}x{size[1]} pixels, and {kind} ends "
            f"at {longest} a side; choose --format png or tiff"
        )


def save(
    pixels: np.ndarray, source: Photograph, target: Path, kind: str, quality: int | None
) -> list[str]:
    """Write uint8 [H, W, 3] in sRGB under `target`, which must not exist.

    What `source` holds of EXIF, XMP and dots per inch goes with it, and an sRGB profile if the
    source had a profile. A grey source gives a grey result: one channel if its file had one.

    Returns:
        What could not go with it.

    Raises:
        CannotWrite: The disk is full, read-only, or `target` has come into being; nothing is left
            under `target`.
    """
    image = Image.fromarray(pixels)
    if source.grey:
        image = image.convert("L")
        if not source.one_channel:
            image = image.convert("RGB")
    options, notes = _options(source, image.size, kind, quality)
    bare = {key: value for key, value in options.items() if key not in ("exif", "xmp", "pnginfo")}
    try:
        with _fresh(target) as partial:
            try:
                image.save(partial, format=kind.upper(), **options)
            except _UNWRITABLE as error:  # a tag of a type that this format's writer refuses
                image.save(partial, format=kind.upper(), **bare)
                notes.append(f"its EXIF and XMP cannot be stored as {kind} ({error}), left out")
    except OSError as error:
        said = error.strerror or " ".join(str(error).split())
        raise CannotWrite(
            f"cannot write {shown(target)}: {said}; nothing was left under that name"
        ) from None
    return notes


def _options(
    source: Photograph, size: tuple[int, int], kind: str, quality: int | None
) -> tuple[dict, list[str]]:
    """Pillow's arguments for one format."""
    kept, notes = source.kept, []
    exif, xmp = metadata.exif_bytes(kept, size), kept.xmp
    options: dict = {} if kept.dpi is None else {"dpi": kept.dpi}
    if source.profiled and not source.one_channel:
        options["icc_profile"] = srgb_profile()
    if kind == "tiff" and 3 * size[0] * size[1] > BIG_TIFF:
        options["big_tiff"] = True
    if FORMATS[kind][1] is not None:
        options["quality"] = FORMATS[kind][1] if quality is None else quality
    if kind == "jpeg":
        if exif and len(exif) > MOST_JPEG_EXIF:
            exif = metadata.exif_bytes(kept, size, maker_note=False)
            notes.append("the maker note is too long for JPEG and is left out")
        if exif and len(exif) > MOST_JPEG_EXIF:
            exif = None
            notes.append("the EXIF block is too long for JPEG and is left out")
        if xmp and len(xmp) > MOST_JPEG_XMP:
            xmp = None
            notes.append("the XMP block is too long for JPEG and is left out")
        options["subsampling"] = 0
    elif kind == "png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        if xmp:
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
            xmp = None
    elif kind == "avif":
        options["subsampling"] = "4:4:4"
    elif kind == "tiff":
        tags = Image.Exif()  # uncompressed: Pillow's compressed files take no directory of EXIF
        if exif:
            tags.load(exif)
            tags.pop(metadata.ORIENTATION, None)  # 1 is TIFF's default
        if xmp:
            tags[XMP_TAG] = xmp
        options["exif"] = tags
        exif = xmp = None
    return options | {k: v for k, v in (("exif", exif), ("xmp", xmp)) if v}, notes


@contextmanager
def _fresh(target: Path) -> Iterator[Path]:
    """A temporary file beside `target`, which takes that name if the body ends well."""
    number = 0
    while True:
        partial = target.parent / f".x4-{os.getpid()}-{number}.partial{target.suffix}"
        try:
            partial.open("xb").close()
            break
        except FileExistsError:
            number += 1
    try:
        yield partial
        _name(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _name(partial: Path, target: Path) -> None:
    """Give `partial` its final name; raises FileExistsError rather than replace anything."""
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError(17, "File exists") from None
        partial.rename(target)
