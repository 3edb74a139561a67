"""What is evaluated on: named pairs of a small and a large image, from folders or embedded."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from compress.errors import UserError, nearest
from compress.image import list_images, read_image
from compress.model import SCALE
from eval import embedded

# how folders of small and large images are called, by data set makers
LAYOUTS = (("LR", "HR"), ("lq", "gt"), ("test_LR", "test_HR"))
# sides in pixels (small, large) that a protocol prescribes; `full` takes whole images of any size
PROTOCOLS = {"crop": (128, 512), "64-256": (64, 256), "full": None, "embedded": None}
PUBLISHED = {"drealsr": "DRealSR", "realsr": "RealSR", "div2k": "DIV2K"}

Read = Callable[[], torch.Tensor]  # -> float [1, 3, H, W] in [0, 1]


@dataclass(frozen=True)
class Pair:
    """One image: `lr` [1, 3, h, w] and its original `hr` [1, 3, 4h, 4w]; either may be absent, not both."""

    name: str
    lr: Read | None
    hr: Read | None


@dataclass(frozen=True)
class DataSet:
    """Pairs in the order of their names; `total` counts them before --limit."""

    name: str
    protocol: str
    pairs: list[Pair]
    total: int


def open_data(data: str | Path | None = None, lr: str | Path | None = None, hr: str | Path | None = None, *,
              protocol: str | None = None, name: str | None = None, limit: int | None = None,
              convert: bool = False) -> DataSet:
    """The data set `embedded`, a folder in one of LAYOUTS (or of small images only), or two folders `lr`, `hr`.

    Without `protocol` it follows from the sizes: `crop` if all are 128 -> 512, `64-256` if all are 64 -> 256, else
    `full`. Raises UserError for missing or empty folders, names without a partner, and sizes that are not x4 or not
    the protocol's.
    """
    if protocol is not None and protocol not in PROTOCOLS:
        raise UserError(f"protocol '{protocol}' is unknown{nearest(protocol, PROTOCOLS)}; "
                        f"choose from {', '.join(PROTOCOLS)}")
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: must be at least 1")
    if data is not None and str(data) == "embedded":
        if lr or hr or protocol not in (None, "embedded"):
            raise UserError("--data embedded brings its own images and protocol; leave out --lr, --hr and --protocol")
        pairs = [Pair(n, partial(embedded.low, n), partial(embedded.high, n)) for n in sorted(embedded.PHOTOGRAPHS)]
        return DataSet(name or "embedded", "embedded", pairs[:limit], len(pairs))
    if protocol == "embedded":
        raise UserError("protocol 'embedded' belongs to --data embedded; choose crop, full or 64-256")
    small, large, folder = _folders(data, lr, hr)
    files = _pair_up(small, large)
    kept = files[:limit]
    sizes = {(_size(s), _size(b)) for _, s, b in kept}
    _check_x4(kept)
    pairs = [Pair(n, s and partial(read_image, s, convert), b and partial(read_image, b, convert)) for n, s, b in kept]
    return DataSet(name or _known_name(folder), _protocol(protocol, sizes, folder), pairs, len(files))


def by_stem(folder: Path) -> dict[str, Path]:
    """Images of `folder` by file name without suffix; UserError where two share one."""
    found: dict[str, Path] = {}
    for path in list_images(folder):
        if path.stem in found:
            raise UserError(f"{folder}: {found[path.stem].name} and {path.name} have the same name; keep one of them")
        found[path.stem] = path
    return found


def match(left: dict[str, Path], right: dict[str, Path], where: str) -> None:
    """Raise UserError unless both hold the same names."""
    alone = sorted(left.keys() ^ right.keys())
    if alone:
        some = ", ".join(alone[:3]) + (" …" if len(alone) > 3 else "")
        raise UserError(f"{where}: {len(alone)} image(s) without a partner of the same name ({some}); "
                        "rename or remove them so that the names agree")


def _folders(data, lr, hr) -> tuple[Path | None, Path | None, Path]:
    if data is not None and (lr or hr):
        raise UserError("--data and --lr/--hr both name the images; give one or the other")
    if lr or hr:
        return (Path(lr) if lr else None), (Path(hr) if hr else None), Path(lr or hr)
    if data is None:
        raise UserError("no data was named; give --data FOLDER, --data embedded, or --lr FOLDER [--hr FOLDER]")
    root = Path(data)
    if not root.is_dir():
        raise UserError(f"--data {root}: no such folder{nearest(str(data), ['embedded'])}; give a folder with "
                        f"{' or '.join(f'{a}/ and {b}/' for a, b in LAYOUTS)}, a folder of small images, or 'embedded'")
    inside = {p.name.lower(): p for p in root.iterdir() if p.is_dir()}
    for small, large in LAYOUTS:
        if small.lower() in inside:
            return inside[small.lower()], inside.get(large.lower()), root
    return root, None, root


def _pair_up(small: Path | None, large: Path | None) -> list[tuple[str, Path | None, Path | None]]:
    lows = by_stem(small) if small else {}
    highs = by_stem(large) if large else {}
    if small and large:
        match(lows, highs, f"{small} and {large}")
    return [(name, lows.get(name), highs.get(name)) for name in sorted(lows or highs)]


def _size(path: Path | None) -> tuple[int, int] | None:
    """(width, height) after EXIF orientation, from the header alone; None for a file that PIL cannot open."""
    if path is None:
        return None
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5
            return image.size[::-1] if turned else image.size
    except OSError:
        read_image(path)  # says what is wrong with the file
        raise


def _check_x4(files: list[tuple[str, Path | None, Path | None]]) -> None:
    for _, small, large in files:
        if small and large:
            (w, h), (wide, high) = _size(small), _size(large)
            if (wide, high) != (w * SCALE, h * SCALE):
                raise UserError(f"{large}: {wide}x{high} is not x{SCALE} of {small} ({w}x{h}); expected "
                                f"{w * SCALE}x{h * SCALE}")


def _protocol(asked: str | None, sizes: set, folder: Path) -> str:
    """The protocol asked for, checked against the sizes, or the one they fit."""
    def fits(sides: tuple[int, int]) -> bool:
        return all((small is None or small == (sides[0],) * 2) and (large is None or large == (sides[1],) * 2)
                   for small, large in sizes)

    if asked is None:
        return next((name for name, sides in PROTOCOLS.items() if sides and fits(sides)), "full")
    sides = PROTOCOLS[asked]
    if sides and not fits(sides):
        raise UserError(f"{folder}: protocol '{asked}' is {sides[0]}x{sides[0]} to {sides[1]}x{sides[1]} images "
                        "and some have another size; use --protocol full")
    return asked


def _known_name(folder: Path) -> str:
    """The folder's name, or the published data set's where it begins with that (RealSRVal_crop128 -> RealSR)."""
    name = folder.resolve().name
    if any(name == spelling for layout in LAYOUTS for spelling in layout):
        name = folder.resolve().parent.name
    return next((known for start, known in PUBLISHED.items() if name.lower().startswith(start)), name)
