"""Data sets: named pairs of a small and a large image, from folders or embedded."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from compress.core.errors import UserError
from compress.core.image import read_image
from eval.data import embedded
from eval.data.folders import LAYOUTS, DataSpec, Located, locate
from eval.data.named_sets import NamedSet
from eval.data.pairing import PairOfFiles, Problems, Sizes, pair_up, sizes
from eval.data.protocols import check_protocol, choose_protocol

# How a folder's name begins -> the data set whose images it holds.
PUBLISHED = {
    "drealsr": "DRealSR",
    "realsr": "RealSR",
    "realset65": "RealSet65",
    "reallr200": "RealLR200",
    "div2k": "DIV2K",
}

Read = Callable[[], torch.Tensor]  # -> float [1, 3, H, W] in [0, 1]


@dataclass(frozen=True)
class Pair:
    """One image of a data set; either side may be absent, not both.

    Attributes:
        name: The file's name without suffixes.
        lr: Reads the small image, float [1, 3, h, w] in [0, 1].
        hr: Reads its original, float [1, 3, 4h, 4w] in [0, 1].
    """

    name: str
    lr: Read | None
    hr: Read | None


@dataclass(frozen=True)
class DataSet:
    """The images that a model is measured on.

    Attributes:
        name: As results call it.
        protocol: A key of eval.data.protocols.PROTOCOLS.
        pairs: The images that can be used, in the order of their names.
        total: How many images there are, before --limit and with those left out.
        problems: A sentence for each image that cannot be used, by name.
        notes: What is odd about the whole.
    """

    name: str
    protocol: str
    pairs: list[Pair]
    total: int
    problems: Problems = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def open_data(
    spec: DataSpec | str | Path, *, limit: int | None = None, convert: bool = False
) -> DataSet:
    """The data set that a user names; its images are read later, one by one.

    An image without a partner, of a wrong size or that cannot be read is left out and has its
    sentence in `problems`.

    Args:
        spec: What the user says of it, or only DataSpec.data.
        limit: Use the first images alone, in the order of their names.
        convert: Convert grayscale, RGBA and 16-bit files while reading, instead of refusing them.

    Raises:
        UserError: Folders are missing or empty, the sizes are not of the protocol, or no image is
            left.
    """
    if not isinstance(spec, DataSpec):
        spec = DataSpec(spec)
    check_protocol(spec.protocol)
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: must be at least 1")
    if str(spec.data) == "embedded":
        return _open_embedded(spec, limit)
    if spec.protocol == "embedded":
        raise UserError(
            "protocol 'embedded' belongs to --data embedded; choose crop, full or 64-256"
        )
    return _open_folders(locate(spec), spec, limit, convert)


def _open_embedded(spec: DataSpec, limit: int | None) -> DataSet:
    if spec.lr or spec.hr or spec.protocol not in (None, "embedded"):
        raise UserError(
            "--data embedded brings its own images and protocol; "
            "leave out --lr, --hr and --protocol"
        )
    pairs = [
        Pair(name, partial(embedded.low, name), partial(embedded.high, name))
        for name in sorted(embedded.PHOTOGRAPHS)
    ]
    return DataSet(spec.name or "embedded", "embedded", pairs[:limit], len(pairs))


def _open_folders(located: Located, spec: DataSpec, limit: int | None, convert: bool) -> DataSet:
    """The images in the folders; their headers are read, to check the sizes."""
    files, problems = pair_up(located.layout)
    names = sorted(files.keys() | problems.keys())
    kept = names[:limit]
    found, wrong_sizes = _sizes({name: files[name] for name in kept if name in files})
    problems = problems | wrong_sizes
    problems = {name: problems[name] for name in kept if name in problems}
    if len(problems) == len(kept):
        raise UserError(
            f"{located.folder}: none of {len(kept)} images can be used; "
            f"the first: {problems[kept[0]]}"
        )
    protocol = choose_protocol(spec.protocol, found, located.folder, located.known)
    return DataSet(
        _name(located, spec),
        protocol,
        [_pair(name, files[name], convert) for name in kept if name not in problems],
        len(names),
        problems,
        _count(located.known, protocol, len(names), located.folder),
    )


def _sizes(files: dict[str, PairOfFiles]) -> tuple[set[Sizes], Problems]:
    """The sizes that pairs of `files` have, and a sentence for each that cannot be one."""
    found: set[Sizes] = set()
    problems: Problems = {}
    for name, (small, large) in files.items():
        try:
            found.add(sizes(small, large))
        except UserError as error:
            problems[name] = str(error)
    return found, problems


def _pair(name: str, files: PairOfFiles, convert: bool) -> Pair:
    small, large = files
    return Pair(name, _reader(small, convert), _reader(large, convert))


def _reader(file: Path | None, convert: bool) -> Read | None:
    if file is None:
        return None
    return partial(read_image, file, convert)


def _count(known: NamedSet | None, protocol: str, total: int, folder: Path) -> tuple[str, ...]:
    """A note where the data set has another number of images than its makers state."""
    if known is None:
        return ()
    expected = known.protocols[protocol].images
    if expected is None or expected == total:
        return ()
    return (
        f"{folder}: holds {total} images, {known.name} has {expected} under protocol "
        f"'{protocol}'; averages are not over the benchmark",
    )


def _name(located: Located, spec: DataSpec) -> str:
    """The published data set's name, else the one asked for, else that of the folder."""
    if located.known is not None:
        return located.known.name
    return spec.name or _name_of_folder(located.folder)


def _name_of_folder(folder: Path) -> str:
    """The folder's name, or the data set's that it begins with (RealSRVal_crop128 -> RealSR)."""
    folder = folder.resolve()
    spellings = {spelling for layout in LAYOUTS for spelling in layout}
    name = folder.parent.name if folder.name in spellings else folder.name
    for start, published in PUBLISHED.items():
        if name.lower().startswith(start):
            return published
    return name
