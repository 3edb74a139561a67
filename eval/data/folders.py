"""Where the images of a data set lie: one function for each way in which folders are laid out."""

from dataclasses import dataclass, replace
from pathlib import Path

from compress.core.errors import UserError, nearest
from compress.core.hub import hub_name, local_folder
from compress.core.image import SUFFIXES, list_images
from eval.data import named_sets
from eval.data.named_sets import Layout, NamedSet, Protocol

# How folders of small and large images are called by those who make data sets.
LAYOUTS = (("LR", "HR"), ("lq", "gt"), ("test_LR", "test_HR"))
COMMON = " or ".join(f"{small}/ and {large}/" for small, large in LAYOUTS)


@dataclass(frozen=True)
class DataSpec:
    """What a user says of a data set.

    Attributes:
        data: `embedded`; a folder in one of LAYOUTS, or of small images only, also as the name of
            a data set of the hub; NAME=DIR for a
            published data set; NAME or NAME=DIR beside `lr` and `hr`. None with `lr` or `hr` alone.
        lr: Folder of small images; may lie under DIR.
        hr: Folder of their originals, with the same file names; may lie under DIR.
        protocol: A key of eval.data.protocols.PROTOCOLS; None goes by the sizes.
        name: What the data set is called in results; None takes the folder's name.
    """

    data: str | Path | None = None
    lr: str | Path | None = None
    hr: str | Path | None = None
    protocol: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Located:
    """The folders of a data set.

    Attributes:
        layout: Its folders, as they can be opened.
        folder: The folder that the data set is named after.
        known: The published data set that it is said to be.
    """

    layout: Layout
    folder: Path
    known: NamedSet | None = None


def locate(spec: DataSpec) -> Located:
    """The folders that `spec` names.

    Raises:
        UserError: No folder was named, or it is missing, or not laid out as its name says.
    """
    if spec.lr or spec.hr:
        return _two_folders(spec)
    if spec.data is None:
        raise UserError(
            "no data was named; give --data FOLDER, --data NAME=FOLDER, --data embedded, "
            "or --lr FOLDER [--hr FOLDER]"
        )
    if "=" in str(spec.data) and not Path(spec.data).exists():
        key, _, root = str(spec.data).partition("=")
        known = named_sets.find(key)
        _check_protocol_of(known, spec.protocol)
        return _published(known, _existing(root), spec.protocol)
    name = hub_name(spec.data)
    found = _plain_folder(_existing(spec.data))
    if name is None:
        return found
    # A folder of a repository is named as one of a disc: `org/photos:LR` as photos/LR.
    return replace(found, folder=Path(name.repo.partition("/")[2], name.inside))


def _two_folders(spec: DataSpec) -> Located:
    """`lr` and `hr`, of a published data set where `data` names one."""
    small = spec.lr
    large = spec.hr
    known: NamedSet | None = None
    if spec.data is not None:
        key, _, root = str(spec.data).partition("=")
        known = _set_beside_folders(key, root)
        small = _under(root, small, "--lr")
        large = _under(root, large, "--hr")
        _check_protocol_of(known, spec.protocol)
    if known is not None and known.reference and not (small and large):
        raise UserError(
            f"{known.name} has small images and their originals; give both --lr and --hr"
        )
    layout = Layout(_places(small), _places(large), *_suffixes(known, small, large))
    return Located(layout, Path(small or large or ""), known)


def _places(folder: str | Path | None) -> tuple[str, ...]:
    """A folder as a layout holds it: none where there is none."""
    return (str(folder),) if folder else ()


def _published(known: NamedSet, root: Path, protocol: str | None) -> Located:
    """A published data set, as its makers lay it out or in one of LAYOUTS."""
    protocols = list(known.protocols.values())
    if protocol is not None:
        protocols = [known.protocols[protocol]]
    for entry in protocols:
        layout = _own_layout(entry, root)
        if layout is not None:
            return Located(layout, root, known)
    layout = _common_layout(root, with_originals=known.reference)
    if layout is not None:
        return Located(layout, root, known)
    if known.reference:
        raise UserError(
            f"{root}: is not laid out as {known.name}; expected {COMMON}"
            " (python -m eval.named_sets lists the layouts)"
        )
    return Located(Layout((str(root),)), root, known)


def _plain_folder(root: Path) -> Located:
    """A folder in one of LAYOUTS, else a folder of small images."""
    layout = _common_layout(root, with_originals=True)
    return Located(layout or Layout((str(root),)), root)


def _own_layout(entry: Protocol, root: Path) -> Layout | None:
    """The first layout of `entry` whose folders are under `root` and hold a small image."""
    for layout in entry.layouts:
        places = [root / place for place in (*layout.small, *layout.large)]
        if not all(place.is_dir() for place in places):
            continue
        if any(path.stem.endswith(layout.small_suffix) for path in places[0].iterdir()):
            return layout.under(root)
    return None


def _common_layout(root: Path, with_originals: bool) -> Layout | None:
    """The first of LAYOUTS whose folder of small images is in `root`, in any case."""
    inside = {path.name.lower(): path for path in root.iterdir() if path.is_dir()}
    for small, large in LAYOUTS:
        if small.lower() not in inside:
            continue
        originals = inside.get(large.lower()) if with_originals else None
        return Layout((str(inside[small.lower()]),), _places(originals))
    return None


def _existing(folder: str | Path) -> Path:
    root = local_folder(folder, SUFFIXES, "dataset")
    if not root.is_dir():
        raise UserError(
            f"--data {root}: no such folder{nearest(str(folder), ['embedded'])}; give a folder "
            f"with {COMMON}, a folder of small images, or 'embedded'"
        )
    return root


def _check_protocol_of(known: NamedSet, protocol: str | None) -> None:
    if protocol is not None and protocol not in known.protocols:
        raise UserError(
            f"{known.name} has no protocol '{protocol}'; choose from {', '.join(known.protocols)}"
        )


def _set_beside_folders(key: str, root: str) -> NamedSet:
    """The published data set that --data names; a plain folder has no --lr and --hr beside it."""
    if not root and Path(key).exists() and key.lower() not in named_sets.known():
        raise UserError(
            "--data and --lr/--hr both name the images; give one or the other, or a published "
            f"data set's name with them ({', '.join(named_sets.known())})"
        )
    return named_sets.find(key)


def _under(root: str, folder: str | Path | None, option: str) -> str | Path | None:
    """`folder` under `root` if it is there, else as it was given.

    Raises:
        UserError: It could be both.
    """
    if not root or not folder:
        return folder
    below = Path(root) / folder
    if not below.is_dir():
        return folder
    if Path(folder).is_dir() and not below.samefile(folder):
        raise UserError(
            f"{option} {folder}: is a folder here and under {root}; give an absolute path"
        )
    return below


def _suffixes(
    known: NamedSet | None, small: str | Path | None, large: str | Path | None
) -> tuple[str, str]:
    """How names of small and large images end, by the first layout that both folders fit."""
    if known is None:
        return "", ""
    small_stems = _stems(small)
    large_stems = _stems(large)
    for entry in known.protocols.values():
        for layout in entry.layouts:
            suffixes = (layout.small_suffix, layout.large_suffix)
            fits = _any_ends(small_stems, suffixes[0]) and _any_ends(large_stems, suffixes[1])
            if any(suffixes) and fits:
                return suffixes
    return "", ""


def _any_ends(stems: list[str], suffix: str) -> bool:
    return any(stem.endswith(suffix) for stem in stems)


def _stems(folder: str | Path | None) -> list[str]:
    """Names of the images in a folder without their suffixes; none where there is no folder."""
    if not folder:
        return []
    return [path.stem for path in list_images(folder)]
