"""Open one image file and judge it by its header, before a pixel is decoded."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from .problem import PhotographError, shown

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "MPO", "BMP", "DIB", "WEBP", "TIFF", "AVIF", "GIF", "PPM", "HEIF")
MIN_SIDE = 16
MAX_PIXELS = 65_000_000  # a phone's 64-megapixel photograph; the result has 16 times as many
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
HEIC_INSTALL = "pip install pi-heif"
BITS_TAG, SUBFILE_TAG = 258, 254
MOST_PAGES = 16
_KINDS = {
    "1": "a 1-bit image",
    "L": "grayscale",
    "LA": "grayscale with alpha",
    "La": "grayscale with alpha",
    "RGBA": "RGBA (with an alpha channel)",
    "RGBa": "RGBA (with an alpha channel)",
    "P": "a palette image",
    "PA": "a palette image with alpha",
    "CMYK": "CMYK",
    "LAB": "CIE Lab",
}
# Modes whose pixels have more than 8 bits, or are floats.
_WIDE_GREY = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
HEAD_BYTES = 64  # in which a HEIC file names its brands
BOX_BYTES = 2**16  # in which an AVIF or HEIC file has its `pixi` box
_one_at_a_time = threading.Lock()


@contextmanager
def opened(
    path: Path,
    max_pixels: int = MAX_PIXELS,
    min_side: int = MIN_SIDE,
    remedy: str = "give a smaller one",
) -> Iterator[Image.Image]:
    """Open `path` and check its header; the pixels are not decoded yet.

    Args:
        path: The file.
        max_pixels: Largest width times height.
        min_side: Smallest width and height in pixels.
        remedy: What the sentence about a too large picture advises; `{pixels}` stands for its size.

    Yields:
        The image, of one picture and of a size within the bounds.

    Raises:
        PhotographError: The file is missing, empty, no image, damaged, too small, too large, or
            holds several pictures. Whatever the decoder raises in the body is told as damage.
    """
    name = shown(path)
    _check_file(path, name)
    try:
        with _open(path) as image:
            _check_size(image, name, max_pixels, min_side, remedy)
            _check_pages(image, name)
            yield image
    except PhotographError:
        raise
    except UnidentifiedImageError:
        raise PhotographError(_unknown(path, name)) from None
    except MemoryError:
        raise PhotographError(
            f"{name}: the memory does not suffice for this image; give a smaller one"
        ) from None
    except Exception as error:  # a decoder on a hostile file may raise anything
        raise PhotographError(f"{name}: {_damage(error)}") from None


def _damage(error: Exception) -> str:
    """What a decoder's exception says of a file."""
    reason = shown(" ".join(str(error).split())) or type(error).__name__
    if "Decompressed data too large" in reason:
        return (
            "a compressed text or colour profile in it expands past 1 MiB; "
            "save the image without it"
        )
    return f"the image is damaged or truncated ({reason}); give a complete file"


def _check_file(path: Path, name: str) -> None:
    """Raise PhotographError unless bytes can be read from `path`."""
    try:
        problem = _why_no_file(path, name)
        if problem is None:
            path.open("rb").close()
    except OSError as error:
        problem = f"cannot be read ({error.strerror}); give a readable image file"
    if problem is not None:
        raise PhotographError(f"{name}: {problem}")


def _why_no_file(path: Path, name: str) -> str | None:
    suffixes = ", ".join(SUFFIXES)
    if path.is_dir():
        return f"is a folder; name the images in it, such as {name}/*.jpg"
    if not path.exists():
        return f"no such image file; give an existing {suffixes} file"
    if not path.is_file():
        return f"is no regular file; give an existing {suffixes} file"
    if path.stat().st_size == 0:
        return "the file is empty (0 bytes); give a complete image"
    return None


def _open(path: Path) -> Image.Image:
    """The opened image, without Pillow's bound of its size.

    That bound is an error that names no option: ours is checked in its place.
    """
    Image.init()
    if heic(path):
        _register_heic()
    known = [name for name in FORMATS if name in Image.OPEN]
    with _one_at_a_time:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(path, formats=known)
        finally:
            Image.MAX_IMAGE_PIXELS = before


def heic(path: Path) -> bool:
    """Whether the first bytes are those of a HEIC file."""
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    box = head[4:8]
    brand = head[8:12]
    return box == b"ftyp" and brand in HEIC_BRANDS and b"avif" not in head[12:]


def _register_heic() -> bool:
    """Let Pillow read HEIC files. Returns whether it can."""
    try:
        import pi_heif
    except ImportError:
        return False
    pi_heif.register_heif_opener(thumbnails=False)
    return True


def _unknown(path: Path, name: str) -> str:
    """What to say of a file that no decoder takes."""
    if heic(path):
        if not _register_heic():
            return f"{name}: a HEIC photograph needs the package pi-heif; run: {HEIC_INSTALL}"
        return f"{name}: the HEIC photograph is damaged or truncated; give a complete file"
    return f"{name}: not an image that can be read; give a {', '.join(SUFFIXES)} file"


def _check_size(image: Image.Image, name: str, max_pixels: int, min_side: int, remedy: str) -> None:
    width, height = image.size
    if min(width, height) < min_side:
        raise PhotographError(
            f"{name}: {width}x{height} pixels is too small; both sides must be at least {min_side}"
        )
    if width * height > max_pixels:
        raise PhotographError(
            f"{name}: {width}x{height} pixels ({width * height / 1e6:.1f} megapixels) is past the "
            f"bound of {max_pixels / 1e6:.1f} megapixels; {remedy.format(pixels=width * height)}"
        )


def _check_pages(image: Image.Image, name: str) -> None:
    """Raise PhotographError for several pictures; of MPO and HEIF the first is taken."""
    if isinstance(image, TiffImageFile):
        _check_tiff(image, name)
    elif image.format not in ("MPO", "HEIF") and getattr(image, "is_animated", False):
        raise PhotographError(
            f"{name}: an animated {image.format} file; "
            "save one of its pictures as PNG and give that"
        )


def _check_tiff(image: TiffImageFile, name: str) -> None:
    """One picture; smaller copies of it, which scanners add, may follow."""
    if _is_reduced(image):
        raise PhotographError(
            f"{name}: its first picture is a reduced copy, as in a camera's raw file; "
            "develop it and give the result as TIFF, PNG or JPEG"
        )
    pages = image.n_frames
    too_many = pages > MOST_PAGES
    for page in range(1, min(pages, MOST_PAGES)):
        image.seek(page)
        if not _is_reduced(image):
            too_many = True
    image.seek(0)
    if too_many:
        raise PhotographError(
            f"{name}: a TIFF file of {pages} pages; "
            "save one page as a file of its own and give that"
        )


def _is_reduced(image: TiffImageFile) -> bool:
    """Whether the page is a smaller copy of another."""
    return bool(int(image.tag_v2.get(SUBFILE_TAG, 0)) & 1)


def bits(image: Image.Image) -> int:
    """Bits of one channel as the file stores it: Pillow shows 16-bit RGB as 8-bit RGB.

    To be asked before the pixels are decoded; the decoder's own description is gone afterwards.
    """
    if isinstance(image, TiffImageFile):
        return max(image.tag_v2.get(BITS_TAG, (1,)))
    if not isinstance(image, ImageFile):
        return 8
    if image.format in ("AVIF", "HEIF"):
        return _pixi_bits(Path(os.fsdecode(image.filename)))
    if image.format not in ("PNG", "PPM") or not image.tile:
        return 8
    stored = image.tile[0][3]
    rawmode, *more = stored if isinstance(stored, tuple) else (stored,)
    if image.format == "PPM" and more:
        return 16 if more[0] > 255 else 8
    if rawmode == "1":
        return 1
    digits = re.sub("[^0-9]", "", str(rawmode).partition(";")[2])
    if digits:
        return int(digits)
    return 8


def _pixi_bits(path: Path) -> int:
    """Bits of a channel in the `pixi` box of an AVIF or HEIC file; 8 where it has none."""
    with path.open("rb") as stream:
        head = stream.read(BOX_BYTES)
    _, found, box = head.partition(b"pixi")
    depths = box[5:]  # behind a version, flags and the number of channels
    if not found or len(box) < 5:
        return 8
    return max(depths[: box[4]], default=8)


def transparent(image: Image.Image) -> bool:
    """Whether the file has an alpha channel or a colour that stands for transparency."""
    return image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info


def check_kind(image: Image.Image, name: str, convert: bool) -> None:
    """Raise PhotographError for what is not 8-bit RGB unless `convert`, or has no defined white."""
    depth = bits(image)
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise PhotographError(
            f"{name}: holds {depth}-bit integers, for which no white is defined; "
            "save it with 8 or 16 unsigned bits a channel"
        )
    kind = _kind(image, depth)
    if kind is not None and not convert:
        raise PhotographError(
            f"{name}: the image is {kind}, the model takes 8-bit RGB; convert the file, or pass "
            "--convert to have it converted while reading"
        )


def _kind(image: Image.Image, depth: int) -> str | None:
    """What an image is by mode and depth; None for 8-bit RGB."""
    if image.mode in ("RGB", "YCbCr"):
        if depth > 8:
            return f"{depth}-bit RGB"
        return "RGB with a transparent colour" if transparent(image) else None
    if image.mode in _WIDE_GREY:
        return f"a 16-bit or float grayscale image (mode {image.mode})"
    kind = _KINDS.get(image.mode, f"mode {image.mode}")
    if depth > 8 and image.format in ("PNG", "TIFF"):
        return f"{kind} of {depth} bits a channel"
    return kind


def grey(image: Image.Image) -> bool:
    """Whether the file holds no colour by its mode."""
    return image.mode in ("1", "L", "LA", "La", *_WIDE_GREY)
