"""Open one image file and judge it by its header, before a pixel is decoded."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from .problem import PhotographError, shown

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "MPO", "BMP", "DIB", "WEBP", "TIFF", "AVIF", "GIF", "PPM", "HEIF")
MIN_SIDE = 16
MAX_PIXELS = 65_000_000  # a phone's 64-megapixel photograph; the result has 16 times as many
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
HEIC_INSTALL = "pip install pi-heif"
BITS_TAG, SUBFILE_TAG = 258, 254
MOST_PAGES = 16
_GREY = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N", "I", "F")
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
        said = shown(" ".join(str(error).split())) or type(error).__name__
        if "Decompressed data too large" in said:
            raise PhotographError(
                f"{name}: a compressed text or colour profile in it expands past "
                "1 MiB; save the image without it"
            ) from None
        raise PhotographError(
            f"{name}: the image is damaged or truncated ({said}); give a complete file"
        ) from None


def _check_file(path: Path, name: str) -> None:
    try:
        if path.is_dir():
            raise PhotographError(
                f"{name}: is a folder; name the images in it, such as {name}/*.jpg"
            )
        if not path.exists():
            raise PhotographError(
                f"{name}: no such image file; give an existing {', '.join(SUFFIXES)} file"
            )
        if not path.is_file():
            raise PhotographError(
                f"{name}: is no regular file; give an existing {', '.join(SUFFIXES)} file"
            )
        if path.stat().st_size == 0:
            raise PhotographError(f"{name}: the file is empty (0 bytes); give a complete image")
        with path.open("rb"):
            pass
    except OSError as error:
        raise PhotographError(
            f"{name}: cannot be read ({error.strerror}); give a readable image file"
        ) from None


def _open(path: Path) -> Image.Image:
    """Pillow's own bound is an error that names no option: ours is checked in its place."""
    Image.init()
    if heic(path):
        _register_heic()
    known = [name for name in FORMATS if name in Image.OPEN]
    with _one_at_a_time:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=known)
        finally:
            Image.MAX_IMAGE_PIXELS = before


def heic(path: Path) -> bool:
    """Whether the first bytes are those of a HEIC file."""
    with path.open("rb") as stream:
        head = stream.read(64)
    return head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS and b"avif" not in head[12:]


def _register_heic() -> bool:
    try:
        import pi_heif
    except ImportError:
        return False
    pi_heif.register_heif_opener(thumbnails=False)
    return True


def _unknown(path: Path, name: str) -> str:
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
            f"{name}: {width}x{height} pixels ({width * height / 1e6:.1f} "
            f"megapixels) is past the bound of {max_pixels / 1e6:.1f} "
            f"megapixels; {remedy.format(pixels=width * height)}"
        )


def _check_pages(image: Image.Image, name: str) -> None:
    if image.format == "TIFF":
        _check_tiff(image, name)
    elif image.format not in ("MPO", "HEIF") and getattr(image, "is_animated", False):
        raise PhotographError(
            f"{name}: an animated {image.format} file; save one of its pictures "
            "as PNG and give that"
        )


def _check_tiff(image: Image.Image, name: str) -> None:
    """One picture; smaller copies of it, which scanners add, may follow."""
    if int(image.tag_v2.get(SUBFILE_TAG, 0)) & 1:
        raise PhotographError(
            f"{name}: its first picture is a reduced copy, as in a camera's raw "
            "file; develop it and give the result as TIFF, PNG or JPEG"
        )
    pages = getattr(image, "n_frames", 1)
    full = pages if pages > MOST_PAGES else 1
    for page in range(1, min(pages, MOST_PAGES)):
        image.seek(page)
        full += not int(image.tag_v2.get(SUBFILE_TAG, 0)) & 1
    image.seek(0)
    if full > 1:
        raise PhotographError(
            f"{name}: a TIFF file of {pages} pages; save one page as a file of "
            "its own and give that"
        )


def bits(image: Image.Image) -> int:
    """Bits of one channel as the file stores it: Pillow shows 16-bit RGB as 8-bit RGB.

    To be asked before the pixels are decoded; the decoder's own description is gone afterwards.
    """
    if image.format == "TIFF":
        return max(image.tag_v2.get(BITS_TAG, (1,)))
    if image.format in ("AVIF", "HEIF"):
        return _pixi_bits(Path(image.filename))
    if not image.tile:
        return 8
    stored = image.tile[0][3]
    rawmode, *more = stored if isinstance(stored, tuple) else (stored,)
    if image.format == "PPM" and more:
        return 16 if more[0] > 255 else 8
    if image.format in ("PNG", "PPM") and isinstance(rawmode, str):
        digits = "".join(c for c in rawmode.partition(";")[2] if c.isdigit())
        return int(digits) if digits else 1 if rawmode == "1" else 8
    return 8


def _pixi_bits(path: Path) -> int:
    """Bits of a channel in the `pixi` box of an AVIF or HEIC file; 8 where it has none."""
    with path.open("rb") as stream:
        head = stream.read(2**16)
    at = head.find(b"pixi")
    channels = head[at + 8 : at + 9]
    if at < 0 or not channels:
        return 8
    return max(head[at + 9 : at + 9 + channels[0]], default=8)


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
    kind = _KINDS.get(image.mode, f"mode {image.mode}")
    if image.mode in _GREY[4:]:
        kind = f"a 16-bit or float grayscale image (mode {image.mode})"
    elif image.mode in ("RGB", "YCbCr"):
        kind = "RGB with a transparent colour" if transparent(image) else ""
        kind = f"{depth}-bit RGB" if depth > 8 else kind
    elif depth > 8 and image.format in ("PNG", "TIFF"):
        kind = f"{kind} of {depth} bits a channel"
    if kind and not convert:
        raise PhotographError(
            f"{name}: the image is {kind}, the model takes 8-bit RGB; convert "
            "the file, or pass --convert to have it converted while reading"
        )


def grey(image: Image.Image) -> bool:
    """Whether the file holds no colour by its mode."""
    return image.mode in _GREY
