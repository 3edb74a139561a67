"""The one way in which a folder is replaced or deleted: only one that this toolkit made.

A folder without a mark (compress/core/marks.py) is only taken if it is empty. A marked one is only
replaced if every file in it is one that its maker wrote.
"""

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from compress.core.errors import UserError
from compress.core.files import check_name, is_same, writing
from compress.core.locks import locked
from compress.core.marks import MAKERS, MARK_FILE, RUN, SCRATCH, kind_of, mark, strangers

LONGEST_NAME = 100  # characters of a final name in a temporary one
# What a killed process was writing, down to three folders deep.
HALF_WRITTEN = (".*.partial*", "*/.*.partial*", "*/*/.*.partial*", "*/*/*/.*.partial*")


def check_place(path: Path, option: str, inputs: Iterable[Path] = ()) -> None:
    """Refuse a place where no folder of ours may be put, whatever it holds.

    Args:
        path: Where the command is going to write.
        option: What the user calls it, such as ``--out``.
        inputs: Files and folders that the command reads; none may be `path` or lie in it.

    Raises:
        UserError: It is a root, a home or above one, the working directory or above it, a link, a
            file, an input or a folder that holds one.
    """
    path = Path(path)
    remedy = f"choose a {option} of its own, a name that is not yet used"
    place = path.resolve()
    if place.parent == place:
        raise UserError(f"{option} '{path}': is the root of a file system; {remedy}")
    here = Path.cwd().resolve()
    if place == here or place in here.parents:
        raise UserError(f"{option} '{path}': is the working directory or holds it; {remedy}")
    if any(place == home or place in home.parents for home in homes()):
        raise UserError(f"{option} '{path}': is a home directory or holds one; {remedy}")
    check_name(path, option)
    if path.is_symlink():
        raise UserError(
            f"{option} {path}: is a link, and what it leads to is not replaced; {remedy}"
        )
    if path.exists() and not path.is_dir():
        raise UserError(f"{option} {path}: is a file, not a folder; {remedy}")
    for source in inputs:
        inside = Path(source).resolve()
        if is_same(path, inside) or place in inside.parents:
            raise UserError(
                f"{option} {path}: is or holds {source}, which this command reads; {remedy}"
            )


def homes() -> set[Path]:
    """The home of this user, and those of all users that the system knows."""
    folders = set()
    with contextlib.suppress(RuntimeError):  # nobody's: then there is none to protect
        folders.add(Path.home().resolve())
    try:
        import pwd
    except ImportError:  # Windows
        return folders
    for entry in pwd.getpwall():
        home = Path(entry.pw_dir)
        if home.is_absolute() and home != Path("/") and home.is_dir():
            folders.add(home)
    return folders


def check_ours(folder: Path, kind: str, option: str, overwrite: bool = False) -> None:
    """Refuse to replace a folder that is not ours.

    Args:
        folder: What is going to be replaced.
        kind: RUN, EXPORT, …
        option: What the user calls it, such as ``--out``.
        overwrite: See `strangers`.

    Raises:
        UserError: It is there, and neither empty nor of `kind` and without files of others.
    """
    folder = Path(folder)
    maker = MAKERS.get(kind, "this command")
    if folder.is_symlink():
        raise UserError(
            f"{folder}: is a link, and what it leads to is not replaced; remove it, or "
            f"choose another {option}"
        )
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(
            f"{folder}: is a file where a folder is going to be written; "
            f"move it away, or choose another {option}"
        )
    if not any(folder.iterdir()):
        return
    if kind_of(folder) != kind:
        raise UserError(
            f"{folder}: exists and is nothing that {maker} made, so it is not replaced; "
            f"choose another {option}, or move it away"
        )
    others = strangers(folder, overwrite)
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        remedy = f"move that away, choose another {option}"
        if kind == RUN and not overwrite:
            remedy += ", or --overwrite what this toolkit made"
        raise UserError(
            f"{folder}: holds {others[0]}{more}, which {maker} did not write there; {remedy}"
        )


def partial_of(out: Path) -> Path:
    """Where `out` is written before it is finished."""
    return out.with_name(f".{out.name}.partial")


@contextmanager
def claimed(
    out: Path, kind: str, option: str, inputs: Iterable[Path] = (), overwrite: bool = False
) -> Iterator[Path]:
    """Have `out` for this process alone, refused before any work where it cannot be had.

    Args:
        out: The folder that is going to be written or replaced.
        kind: RUN, EXPORT, …: what stands there already must be of this kind.
        option: What the user calls it, such as ``--out``.
        inputs: What the command reads; see check_place.
        overwrite: See strangers.

    Yields:
        `out`.

    Raises:
        UserError: By check_place, check_ours and locked.
    """
    out = Path(out)
    check_place(out, option, inputs)
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(out, option):
        recover(out)
        for folder in (out, partial_of(out)):
            check_ours(folder, kind, option, overwrite)
        yield out


@contextmanager
def gathering(folder: Path, kind: str, option: str, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """Have a folder of `kind` to which files are added: absent, empty, or filled so before.

    Raises:
        UserError: It is another's folder, or one of `inputs` lies in it, or another process fills
            it.
    """
    check_place(folder, option, inputs)
    check_ours(folder, kind, option)
    with occupied(folder, option):
        mark(folder, kind)
        yield folder


@contextmanager
def occupied(folder: Path, option: str, writes: bool = True) -> Iterator[Path]:
    """Have a working folder, in which files of ours gather, for this process alone.

    Args:
        folder: It may hold other files, which stay.
        option: What the user calls it, such as ``--workdir``.
        writes: False in all processes of a run but the first, which holds the lock for all.

    Raises:
        UserError: It is a file, cannot be written to, or another process works there.
    """
    place = Path(folder).resolve()
    if place.exists() and not place.is_dir():
        raise UserError(f"{option} {folder}: is a file, not a folder; choose another {option}")
    check_name(place / "file", option)
    if not writes:
        yield place
        return
    place.mkdir(parents=True, exist_ok=True)
    with locked(place, option) if place.name else contextlib.nullcontext():
        yield place


def begin(out: Path, kind: str, keep: bool = False) -> Path:
    """The marked partial folder of `out`, in which everything is written.

    Args:
        out: The final name.
        kind: RUN, EXPORT, …
        keep: Leave what an earlier process finished in it; files that it was writing still go.

    Raises:
        UserError: There is such a folder, and it is not ours.
    """
    partial = partial_of(out)
    check_ours(partial, kind, "--out")
    if not keep:
        remove(partial, kind)
    partial.mkdir(parents=True, exist_ok=True)
    mark(partial, kind)  # without a list of files, as it is not finished
    drop(partial, *HALF_WRITTEN)
    return partial


def drop(folder: Path, *patterns: str) -> None:
    """Delete what matches `patterns` within a marked folder of ours that is not finished.

    Raises:
        ValueError: The folder carries no mark.
    """
    if kind_of(folder) is None or not (folder / MARK_FILE).is_file():
        raise ValueError(f"{folder} carries no mark")
    for pattern in patterns:
        for path in list(folder.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def remove(folder: Path, kind: str) -> None:
    """Delete a folder of ours, if it is there. Raises UserError for every other."""
    check_ours(folder, kind, "name")
    if folder.is_dir():
        shutil.rmtree(folder)


def swap_in(partial: Path, out: Path, kind: str, overwrite: bool = False) -> None:
    """Give `partial` the name `out`, and delete what stood there, if that is ours.

    A process that is killed in between leaves both; `recover` and the next try find them.

    Raises:
        UserError: What stands under `out` is not ours; `partial` stays.
    """
    check_ours(out, kind, "--out", overwrite)
    if not out.exists():
        partial.rename(out)
        return
    if not any(out.iterdir()):
        out.rmdir()
        partial.rename(out)
        return
    aside = Path(
        tempfile.mkdtemp(prefix=f".{out.name[:LONGEST_NAME]}.", suffix=".old", dir=out.parent)
    )
    mark(aside, SCRATCH)
    out.rename(aside / out.name)
    try:
        partial.rename(out)
    except OSError:
        (aside / out.name).rename(out)  # where that fails too, `aside` stays
        shutil.rmtree(aside)
        raise
    shutil.rmtree(aside)


def recover(out: Path) -> None:
    """Put back what a process that was killed while it replaced `out` had moved aside.

    Where `out` is there, what was moved aside is deleted.
    """
    ours = re.compile(rf"\.{re.escape(out.name[:LONGEST_NAME])}\.[^.]+\.old")
    asides = [path for path in out.parent.iterdir() if ours.fullmatch(path.name)]
    for aside in sorted(asides):
        if kind_of(aside) != SCRATCH:
            continue
        names = {path.name for path in aside.iterdir()}
        if names <= {MARK_FILE, out.name}:
            _put_back(aside, out)


def _put_back(aside: Path, out: Path) -> None:
    """Give what lies in `aside` its name `out` again, and delete `aside` once nothing is lost."""
    kept = aside / out.name
    if kept.is_dir() and not out.exists():
        kept.rename(out)
    elif kept.is_dir() and not any(out.iterdir()):
        out.rmdir()
        kept.rename(out)
    if not kept.is_dir() or kind_of(out) == kind_of(kept):
        shutil.rmtree(aside)


@contextmanager
def scratch(beside: Path) -> Iterator[Path]:
    """A new folder for work in progress next to `beside`, deleted in the end."""
    folder = Path(tempfile.mkdtemp(".partial", f".{beside.name[:LONGEST_NAME]}.", beside.parent))
    mark(folder, SCRATCH)
    try:
        with writing(beside):
            yield folder
    finally:
        shutil.rmtree(folder)
