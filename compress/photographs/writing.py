"""A result becomes a file: its format, what the source said about itself, never over anything."""

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

from . import metadata
from .colour import srgb_profile
from .problem import CannotWriteError, PhotographError, shown
from .reading import Photograph


class Format(NamedTuple):
    """A format of results.

    Attributes:
        suffix: Of its files.
        quality: The default, of 100; None where nothing is lost.
        longest: Its longest side in pixels.
    """

    suffix: str
    quality: int | None
    longest: int


FORMATS = {
    "png": Format(".png", None, 2**31 - 1),
    "jpeg": Format(".jpg", 95, 65500),
    "webp": Format(".webp", 95, 16383),
    "tiff": Format(".tif", None, 2**31 - 1),
    "avif": Format(".avif", 90, 65535),
}
ROWS = 256  # that are converted in one go
BIG_TIFF = 3 * 2**30  # bytes of pixels from which on a TIFF has 64-bit offsets
MOST_JPEG_EXIF, MOST_JPEG_XMP = 65533, 65500
XMP_TAG = 700
METADATA_OPTIONS = ("exif", "xmp", "pnginfo")
SUBSAMPLING: dict[str, int | str] = {"jpeg": 0, "avif": "4:4:4"}  # colour at full size
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
    for top in range(0, planes.shape[1], ROWS):
        strip = planes[:, top : top + ROWS].astype(np.float32)
        if not np.isfinite(strip).all():
            raise PhotographError("the model gave values that are not finite")
        pixels[top : top + ROWS] = np.rint(strip.clip(0, 1) * 255).transpose(1, 2, 0)
    return pixels


def check_size(size: tuple[int, int], kind: str, name: str) -> None:
    """Raise PhotographError where a result of `size` (width, height) is past the format's sides."""
    longest = FORMATS[kind].longest
    if max(size) > longest:
        width, height = size
        raise PhotographError(
            f"{name}: the result has {width}x{height} pixels, and {kind} ends at {longest} a side; "
            "choose --format png or tiff"
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
        CannotWriteError: The disk is full, read-only, or `target` has come into being; nothing is
            left under `target`.
    """
    image = Image.fromarray(pixels)
    if source.grey:
        image = image.convert("L")
        if not source.one_channel:
            image = image.convert("RGB")
    options, notes = _options(source, image.size, kind, quality)
    bare = {key: value for key, value in options.items() if key not in METADATA_OPTIONS}
    try:
        with _fresh(target) as partial:
            try:
                image.save(partial, format=kind.upper(), **options)
            except _UNWRITABLE as error:  # a tag of a type that this format's writer refuses
                image.save(partial, format=kind.upper(), **bare)
                notes.append(f"its EXIF and XMP cannot be stored as {kind} ({error}), left out")
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise CannotWriteError(
            f"cannot write {shown(target)}: {reason}; nothing was left under that name"
        ) from None
    return notes


def _options(
    source: Photograph, size: tuple[int, int], kind: str, quality: int | None
) -> tuple[dict[str, Any], list[str]]:
    """Pillow's arguments for one format, and what could not go with the result."""
    width, height = size
    kept = source.kept
    options: dict[str, Any] = {}
    if kept.dpi is not None:
        options["dpi"] = kept.dpi
    if source.profiled and not source.one_channel:
        options["icc_profile"] = srgb_profile()
    if kind == "tiff" and 3 * width * height > BIG_TIFF:
        options["big_tiff"] = True
    if FORMATS[kind].quality is not None:
        options["quality"] = FORMATS[kind].quality if quality is None else quality
    if kind in SUBSAMPLING:
        options["subsampling"] = SUBSAMPLING[kind]
    exif = metadata.exif_bytes(kept, size)
    if kind == "png":
        return options | _png_options(exif, kept.xmp), []
    if kind == "tiff":
        return options | {"exif": _tiff_tags(exif, kept.xmp)}, []
    if kind == "jpeg":
        exif, xmp, notes = _jpeg_blocks(kept, exif, size)
        return options | _blocks(exif, xmp), notes
    return options | _blocks(exif, kept.xmp), []


def _blocks(exif: bytes | None, xmp: bytes | None) -> dict[str, bytes]:
    """Those that there are."""
    blocks = {}
    if exif:
        blocks["exif"] = exif
    if xmp:
        blocks["xmp"] = xmp
    return blocks


def _jpeg_blocks(
    kept: metadata.Metadata, exif: bytes | None, size: tuple[int, int]
) -> tuple[bytes | None, bytes | None, list[str]]:
    """EXIF and XMP as long as JPEG takes them, and what is left out."""
    notes = []
    xmp = kept.xmp
    if exif and len(exif) > MOST_JPEG_EXIF:
        exif = metadata.exif_bytes(kept, size, maker_note=False)
        notes.append("the maker note is too long for JPEG and is left out")
    if exif and len(exif) > MOST_JPEG_EXIF:
        exif = None
        notes.append("the EXIF block is too long for JPEG and is left out")
    if xmp and len(xmp) > MOST_JPEG_XMP:
        xmp = None
        notes.append("the XMP block is too long for JPEG and is left out")
    return exif, xmp, notes


def _png_options(exif: bytes | None, xmp: bytes | None) -> dict[str, Any]:
    """XMP goes into a text chunk."""
    chunks = PngImagePlugin.PngInfo()
    if xmp:
        chunks.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
    return {"pnginfo": chunks, **_blocks(exif, None)}


def _tiff_tags(exif: bytes | None, xmp: bytes | None) -> Image.Exif:
    """EXIF and XMP as tags; Pillow's compressed TIFF files take no directory of EXIF."""
    tags = Image.Exif()
    if exif:
        tags.load(exif)
        tags.pop(metadata.ORIENTATION, None)  # 1 is TIFF's default
    if xmp:
        tags[XMP_TAG] = xmp
    return tags


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
            raise FileExistsError(errno.EEXIST, "File exists") from None
        partial.rename(target)
