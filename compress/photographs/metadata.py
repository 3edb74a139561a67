"""What a file says about its photograph, for the result: EXIF, XMP, resolution; turned upright."""

import math
import re
from dataclasses import dataclass, field

from PIL import Image

ORIENTATION, EXIF_IFD, GPS_IFD, MAKER_NOTE = 0x0112, 0x8769, 0x8825, 0x927C
WIDTH, HEIGHT, COLOUR_SPACE, INTEROPERABILITY = 0xA002, 0xA003, 0xA001, 0xA005
# Description, maker, model, resolution, software, time, artist, computer, rating, copyright and
# Windows' titles. Sizes, strips, thumbnails and all that describes the file's own bytes are left behind.
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
    """EXIF tags of three directories, XMP with orientation 1, dots per inch; what was left out."""

    main: dict = field(default_factory=dict)
    exif: dict = field(default_factory=dict)
    gps: dict = field(default_factory=dict)
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    orientation: int = 1
    notes: list[str] = field(default_factory=list)


def read(image: Image.Image) -> Metadata:
    """The metadata of an opened image. What cannot be parsed is left out with a note."""
    found = Metadata(dpi=_dpi(image), xmp=_xmp(image))
    if found.xmp and len(found.xmp) > MOST_XMP:
        found.notes.append(f"its XMP block of {len(found.xmp)} bytes is left out")
        found.xmp = None
    try:
        tags = image.getexif()
        orientation = tags.get(ORIENTATION, 1)
        found.orientation = orientation if orientation in range(1, 9) else 1
        found.main = {tag: tags[tag] for tag in KEPT if tag in tags}
        found.exif, found.gps = dict(tags.get_ifd(EXIF_IFD)), dict(tags.get_ifd(GPS_IFD))
        found.exif.pop(INTEROPERABILITY, None)
        unreadable = bool(image.info.get("exif")) and not len(tags)
        exif_bytes(found, image.size)
    except Exception:  # Pillow's parser on hostile bytes may raise anything
        unreadable = True
    if unreadable:
        found.main, found.exif, found.gps = {}, {}, {}
        found.notes.append("its EXIF block is damaged and is left out")
    return found


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    value = image.info.get("dpi")
    if not isinstance(value, tuple) or len(value) != 2:
        return None
    try:
        found = float(value[0]), float(value[1])
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    good = all(math.isfinite(v) and 1 < v < 65535 for v in found)
    return found if good else None


def _xmp(image: Image.Image) -> bytes | None:
    value = image.info.get("xmp")
    if isinstance(value, str):
        value = value.encode("utf-8", "replace")
    if not isinstance(value, bytes) or not value:
        return None
    for pattern in _XMP_ORIENTATION:
        value = pattern.sub(rb"\g<1>1\g<2>", value)
    return value


def exif_bytes(found: Metadata, size: tuple[int, int], maker_note: bool = True) -> bytes | None:
    """The EXIF block of a result of `size` (width, height) in sRGB; None where there was none."""
    if not (found.main or found.exif or found.gps or found.orientation != 1):
        return None
    tags = Image.Exif()
    for tag, value in found.main.items():
        tags[tag] = value
    tags[ORIENTATION] = 1
    if found.exif:
        more = {**found.exif, WIDTH: size[0], HEIGHT: size[1], COLOUR_SPACE: 1}
        if not maker_note:
            more.pop(MAKER_NOTE, None)
        tags[EXIF_IFD] = more
    if found.gps:
        tags[GPS_IFD] = dict(found.gps)
    return tags.tobytes()
