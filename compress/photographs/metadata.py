"""What a file says about its photograph, for the result: EXIF, XMP, resolution; turned upright."""

import re
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

ORIENTATION, EXIF_IFD, GPS_IFD, MAKER_NOTE = 0x0112, 0x8769, 0x8825, 0x927C
WIDTH, HEIGHT, COLOUR_SPACE, INTEROPERABILITY = 0xA002, 0xA003, 0xA001, 0xA005
# Description, maker, model, resolution, software, time, artist, computer, rating, copyright and
# Windows' titles. Sizes, strips, thumbnails and all that describes the file's own bytes are left
# behind.
KEPT = (
    270,
    271,
    272,
    282,
    283,
    296,
    305,
    306,
    315,
    316,
    18246,
    18249,
    33432,
    40091,
    40092,
    40093,
    40094,
    40095,
)
MOST_XMP = 2**20
MOST_DPI = 65535
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_XMP_ORIENTATION = (
    re.compile(rb'(tiff:Orientation\s*=\s*["\'])\s*\d+\s*(["\'])'),
    re.compile(rb"(<tiff:Orientation>)\s*\d+\s*(</tiff:Orientation>)"),
)


@dataclass
class Metadata:
    """What a file says about its photograph.

    Attributes:
        main: EXIF tags of the first directory.
        exif: Those of the EXIF directory.
        gps: Those of the GPS directory.
        xmp: The XMP block, with orientation 1.
        dpi: Dots per inch, across and down.
        orientation: 1 to 8 as in EXIF; 1 is upright.
        notes: What was left out.
    """

    main: dict[int, Any] = field(default_factory=dict)
    exif: dict[int, Any] = field(default_factory=dict)
    gps: dict[int, Any] = field(default_factory=dict)
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    orientation: int = 1
    notes: list[str] = field(default_factory=list)


def read(image: Image.Image) -> Metadata:
    """The metadata of an opened image. What cannot be parsed is left out with a note."""
    kept = Metadata(dpi=_dpi(image), xmp=_xmp(image))
    if kept.xmp and len(kept.xmp) > MOST_XMP:
        kept.notes.append(f"its XMP block of {len(kept.xmp)} bytes is left out")
        kept.xmp = None
    try:
        readable = _read_exif(image, kept)
    except Exception:  # Pillow's parser on hostile bytes may raise anything
        readable = False
    if not readable:
        kept.main = {}
        kept.exif = {}
        kept.gps = {}
        kept.notes.append("its EXIF block is damaged and is left out")
    return kept


def _read_exif(image: Image.Image, kept: Metadata) -> bool:
    """Put the image's EXIF tags into `kept`. Returns False for a block that holds none."""
    tags = image.getexif()
    orientation = tags.get(ORIENTATION, 1)
    if orientation in TURNS:
        kept.orientation = orientation
    kept.main = {tag: tags[tag] for tag in KEPT if tag in tags}
    kept.exif = dict(tags.get_ifd(EXIF_IFD))
    kept.exif.pop(INTEROPERABILITY, None)
    kept.gps = dict(tags.get_ifd(GPS_IFD))
    exif_bytes(kept, image.size)  # what cannot be written is damaged as well
    return not image.info.get("exif") or len(tags) > 0


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    value = image.info.get("dpi")
    if not isinstance(value, tuple) or len(value) != 2:
        return None
    try:
        across = float(value[0])
        down = float(value[1])
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    # NaN and infinity are between no bounds.
    if 1 < across < MOST_DPI and 1 < down < MOST_DPI:
        return across, down
    return None


def _xmp(image: Image.Image) -> bytes | None:
    value = image.info.get("xmp")
    if isinstance(value, str):
        value = value.encode("utf-8", "replace")
    if not isinstance(value, bytes) or not value:
        return None
    for pattern in _XMP_ORIENTATION:
        value = pattern.sub(rb"\g<1>1\g<2>", value)
    return value


def exif_bytes(kept: Metadata, size: tuple[int, int], maker_note: bool = True) -> bytes | None:
    """The EXIF block of a result in sRGB; None where its source had none.

    Args:
        kept: Of the source.
        size: (width, height) of the result.
        maker_note: Whether the maker's own block goes with it.
    """
    has_tags = kept.main or kept.exif or kept.gps
    if not has_tags and kept.orientation == 1:
        return None
    tags = Image.Exif()
    for tag, value in kept.main.items():
        tags[tag] = value
    tags[ORIENTATION] = 1
    if kept.exif:
        width, height = size
        more = {**kept.exif, WIDTH: width, HEIGHT: height, COLOUR_SPACE: 1}
        if not maker_note:
            more.pop(MAKER_NOTE, None)
        tags[EXIF_IFD] = more
    if kept.gps:
        tags[GPS_IFD] = dict(kept.gps)
    return tags.tobytes()
