"""What is evaluated on: named pairs of a small and a large image, from folders or embedded."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from compress.core.errors import UserError, nearest
from compress.core.image import list_images, read_image
from eval import named_sets
from eval.data import embedded
from eval.data.pairing import Found, Problems, by_stem, match, sizes
from eval.named_sets import Layout, NamedSet

# how folders of small and large images are called, by data set makers
LAYOUTS = (("LR", "HR"), ("lq", "gt"), ("test_LR", "test_HR"))
# sides in pixels (small, large) that a protocol prescribes; `full` takes whole images of any size
PROTOCOLS = {"crop": (128, 512), "64-256": (64, 256), "full": None, "embedded": None}
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
    """One image: `lr` [1, 3, h, w] and its original `hr` [1, 3, 4h, 4w]; either may be absent, not both."""

    name: str
    lr: Read | None
    hr: Read | None


@dataclass(frozen=True)
class DataSet:
    """Pairs in the order of their names; `total` counts all images, before --limit and with those left out.

    `problems`: a sentence for each image that cannot be used. `notes`: what is odd about the whole.
    """

    name: str
    protocol: str
    pairs: list[Pair]
    total: int
    problems: Problems = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def open_data(
    data: str | Path | None = None,
    lr: str | Path | None = None,
    hr: str | Path | None = None,
    *,
    protocol: str | None = None,
    name: str | None = None,
    limit: int | None = None,
    convert: bool = False,
) -> DataSet:
    """The data set `embedded`, a published one as NAME=DIR, a folder in one of LAYOUTS (or of small images only), or
    two folders `lr`, `hr`. A published one in folders of other names is NAME, or NAME=DIR, with
    `lr` and `hr`, which may lie under DIR.

    Without `protocol` it follows from the sizes: `crop` if all are 128 -> 512, `64-256` if all are 64 -> 256, else
    `full`. An image without a partner, with a wrong size or that cannot be read is left out and has its sentence in
    `problems`. Raises UserError for missing or empty folders, a protocol that the sizes are not of, and where no image
    is left.
    """
    if protocol is not None and protocol not in PROTOCOLS:
        raise UserError(
            f"protocol '{protocol}' is unknown{nearest(protocol, PROTOCOLS)}; "
            f"choose from {', '.join(PROTOCOLS)}"
        )
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: must be at least 1")
    if data is not None and str(data) == "embedded":
        if lr or hr or protocol not in (None, "embedded"):
            raise UserError(
                "--data embedded brings its own images and protocol; leave out --lr, --hr and --protocol"
            )
        pairs = [
            Pair(n, partial(embedded.low, n), partial(embedded.high, n))
            for n in sorted(embedded.PHOTOGRAPHS)
        ]
        return DataSet(name or "embedded", "embedded", pairs[:limit], len(pairs))
    if protocol == "embedded":
        raise UserError(
            "protocol 'embedded' belongs to --data embedded; choose crop, full or 64-256"
        )
    known = None
    beside = bool(lr or hr)
    if data is not None and (beside or ("=" in str(data) and not Path(data).exists())):
        key, _, root = str(data).partition("=")
        known = _named(key, root, beside)
        if beside:
            data, lr, hr = None, _under(root, lr, "--lr"), _under(root, hr, "--hr")
        else:
            data = root
        if protocol is not None and protocol not in known.protocols:
            raise UserError(
                f"{known.name} has no protocol '{protocol}'; choose from {', '.join(known.protocols)}"
            )
    layout, folder = _folders(data, lr, hr, known, protocol)
    files, problems = _pair_up(layout)
    names = sorted(files.keys() | problems.keys())
    kept, found = names[:limit], set()
    for n in list(kept):
        if n in problems:
            continue
        try:
            found.add(sizes(*files[n]))
        except UserError as error:
            problems[n] = str(error)
    problems = {n: problems[n] for n in kept if n in problems}
    if len(problems) == len(kept):
        raise UserError(
            f"{folder}: none of {len(kept)} images can be used; the first: {problems[kept[0]]}"
        )
    pairs = [
        Pair(
            n,
            low and partial(read_image, low, convert),
            high and partial(read_image, high, convert),
        )
        for n in kept
        if n not in problems
        for low, high in [files[n]]
    ]
    chosen = _protocol(protocol, found, folder, known)
    called = known.name if known else name or _known_name(folder)
    return DataSet(
        called, chosen, pairs, len(names), problems, _count(known, chosen, len(names), folder)
    )


def _count(known: NamedSet | None, protocol: str, total: int, folder: Path) -> tuple[str, ...]:
    expected = known.protocols[protocol].images if known else None
    if expected in (None, total):
        return ()
    return (
        f"{folder}: holds {total} images, {known.name} has {expected} under protocol '{protocol}'; averages are "
        "not over the benchmark",
    )


def _folders(data, lr, hr, known: NamedSet | None, protocol: str | None) -> tuple[Layout, Path]:
    """Absolute folders as a Layout, and the folder that the data set is named after."""
    if data is not None and (lr or hr):
        raise UserError("--data and --lr/--hr both name the images; give one or the other")
    if lr or hr:
        if known is not None and known.reference and not (lr and hr):
            raise UserError(
                f"{known.name} has small images and their originals; give both --lr and --hr"
            )
        sides = (str(lr),) if lr else (), (str(hr),) if hr else ()
        return Layout(*sides, *_suffixes(known, lr, hr)), Path(lr or hr)
    if data is None:
        raise UserError(
            "no data was named; give --data FOLDER, --data NAME=FOLDER, --data embedded, or --lr FOLDER "
            "[--hr FOLDER]"
        )
    root = Path(data)
    if not root.is_dir():
        raise UserError(
            f"--data {root}: no such folder{nearest(str(data), ['embedded'])}; give a folder with "
            f"{' or '.join(f'{a}/ and {b}/' for a, b in LAYOUTS)}, a folder of small images, or 'embedded'"
        )
    for label, entry in (known.protocols if known else {}).items():
        for layout in entry.layouts if protocol in (None, label) else ():
            places = [root / place for place in (*layout.small, *layout.large)]
            if all(place.is_dir() for place in places) and any(
                path.stem.endswith(layout.small_suffix) for path in places[0].iterdir()
            ):
                return Layout(
                    *(
                        tuple(str(root / place) for place in side)
                        for side in (layout.small, layout.large)
                    ),
                    layout.small_suffix,
                    layout.large_suffix,
                ), root
    inside = {p.name.lower(): p for p in root.iterdir() if p.is_dir()}
    for small, large in LAYOUTS:
        if small.lower() in inside:
            high = inside.get(large.lower()) if known is None or known.reference else None
            return Layout((str(inside[small.lower()]),), (str(high),) if high else ()), root
    if known is not None and known.reference:
        raise UserError(
            f"{root}: is not laid out as {known.name}; expected "
            f"{' or '.join(f'{a}/ and {b}/' for a, b in LAYOUTS)}"
            " (python -m eval.named_sets lists the layouts)"
        )
    return Layout((str(root),)), root


def _named(key: str, root: str, beside: bool) -> NamedSet:
    """The published data set that --data names; a plain folder in its place has no --lr and --hr
    beside it."""
    if beside and not root and Path(key).exists() and key.lower() not in named_sets.known():
        raise UserError(
            "--data and --lr/--hr both name the images; give one or the other, or a "
            "published data set's "
            f"name with them ({', '.join(named_sets.known())})"
        )
    return named_sets.find(key)


def _under(root: str, folder: str | Path | None, option: str) -> str | Path | None:
    """`folder` under `root` if it is there, else as it was given. Raises UserError where it could
    be both."""
    if not root or not folder:
        return folder
    below = Path(root) / folder
    if below.is_dir() and Path(folder).is_dir() and not below.samefile(folder):
        raise UserError(
            f"{option} {folder}: is a folder here and under {root}; give an absolute path"
        )
    return below if below.is_dir() else folder


def _suffixes(
    known: NamedSet | None, lr: str | Path | None, hr: str | Path | None
) -> tuple[str, str]:
    """How the names of small and large images end: as one of the data set's layouts has it, where
    all do."""
    sides = [[path.stem for path in list_images(folder)] if folder else [] for folder in (lr, hr)]
    for entry in known.protocols.values() if known else ():
        for layout in entry.layouts:
            ends = (layout.small_suffix, layout.large_suffix)
            if any(ends) and all(
                any(stem.endswith(end) for stem in stems)
                for stems, end in zip(sides, ends, strict=True)
            ):
                return ends
    return "", ""


def _pair_up(layout: Layout) -> tuple[dict[str, tuple[Path | None, Path | None]], Problems]:
    def side(folders: tuple[str, ...], suffix: str) -> tuple[Found, Problems]:
        return by_stem([Path(folder) for folder in folders], suffix) if folders else ({}, {})

    lows, wrong = side(layout.small, layout.small_suffix)
    highs, also_wrong = side(layout.large, layout.large_suffix)
    problems = wrong | also_wrong
    if layout.small and layout.large:
        problems |= match(
            {n: p for n, p in lows.items() if n not in problems},
            {n: p for n, p in highs.items() if n not in problems},
            layout.small[0],
            layout.large[0],
        )
    return {
        n: (lows.get(n), highs.get(n)) for n in lows.keys() | highs.keys() if n not in problems
    }, problems


def _protocol(asked: str | None, found: set, folder: Path, known: NamedSet | None) -> str:
    """The protocol asked for, checked against the sizes, or the one they fit."""

    def fits(sides: tuple[int, int]) -> bool:
        return all(
            (small is None or small == (sides[0],) * 2)
            and (large is None or large == (sides[1],) * 2)
            for small, large in found
        )

    choices = {
        name: sides for name, sides in PROTOCOLS.items() if known is None or name in known.protocols
    }
    if asked is None:
        chosen = next((name for name, sides in choices.items() if sides and fits(sides)), "full")
        if chosen not in choices:
            raise UserError(
                f"{folder}: the sizes are of no protocol of {known.name} ({', '.join(choices)})"
            )
        return chosen
    sides = PROTOCOLS[asked]
    if sides and not fits(sides):
        raise UserError(
            f"{folder}: protocol '{asked}' is {sides[0]}x{sides[0]} to {sides[1]}x{sides[1]} images "
            "and some have another size; use --protocol full"
        )
    return asked


def _known_name(folder: Path) -> str:
    """The folder's name, or the published data set's where it begins with that (RealSRVal_crop128 -> RealSR)."""
    name = folder.resolve().name
    if any(name == spelling for layout in LAYOUTS for spelling in layout):
        name = folder.resolve().parent.name
    return next(
        (known for start, known in PUBLISHED.items() if name.lower().startswith(start)), name
    )
