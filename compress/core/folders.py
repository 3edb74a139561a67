"""The one way in which a folder is replaced or deleted: only one that this toolkit made.

A folder without a mark (compress/core/marks.py) is only taken if it is empty. A marked one is only replaced if every
file in it is one that its maker wrote.
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


def check_place(path: Path, option: str, inputs: Iterable[Path] = ()) -> None:
    """Refuse a place where no folder of ours may be put, whatever it holds.

    Args:
        path: Where the command is going to write.
        option: What the user calls it, such as ``--out``.
        inputs: Files and folders that the command reads; none may be `path` or lie in it.

    Raises:
        UserError: It is a root, a home or above one, the working directory or above it, a
        link, a file, an input or a
            folder that holds one.
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
    found = set()
    with contextlib.suppress(RuntimeError):  # nobody's: then there is none to protect
        found.add(Path.home().resolve())
    try:
        import pwd
    except ImportError:  # Windows
        return found
    listed = {Path(entry.pw_dir) for entry in pwd.getpwall() if entry.pw_dir.startswith("/")}
    return found | {home for home in listed if home.is_dir()} - {Path("/")}


def check_ours(folder: Path, kind: str, option: str, overwrite: bool = False) -> None:
    """Raise UserError unless `folder` is absent, empty, or of `kind` and holds nothing that others
    put there.
    """
    folder = Path(folder)
    if folder.is_symlink():
        raise UserError(
            f"{folder}: is a link, and what it leads to is not replaced; remove it, or "
            f"choose another {option}"
        )
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(
            f"{folder}: is a file where a folder is going to be written; move it away, "
            f"or choose another "
            f"{option}"
        )
    if not any(folder.iterdir()):
        return
    if kind_of(folder) != kind:
        raise UserError(
            f"{folder}: exists and is nothing that {MAKERS.get(kind, 'this command')} "
            f"made, so it is not "
            f"replaced; choose another {option}, or move it away"
        )
    if found := strangers(folder, overwrite):
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        also = ", or --overwrite what this toolkit made" if kind == RUN and not overwrite else ""
        raise UserError(
            f"{folder}: holds {found[0]}{more}, which "
            f"{MAKERS.get(kind, 'this command')} did not write there; "
            f"move that away, choose another {option}{also}"
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
        UserError: It is another's folder, or one of `inputs` lies in it, or another process
        fills it.
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
    """The marked partial folder of `out`; with `keep` what is in it stays. Raises UserError where
    it is not ours.
    """
    partial = partial_of(out)
    check_ours(partial, kind, "--out")
    if not keep:
        remove(partial, kind)
    partial.mkdir(parents=True, exist_ok=True)
    mark(partial, kind)  # without a list of files, as it is not finished
    # a killed process's
    drop(partial, *(f"{place}.*.partial*" for place in ("", "*/", "*/*/", "*/*/*/")))
    return partial


def drop(folder: Path, *patterns: str) -> None:
    """Delete what matches `patterns` within a marked folder of ours that is not finished."""
    if kind_of(folder) is None or not (folder / MARK_FILE).is_file():
        raise ValueError(f"{folder} carries no mark")
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
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
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name[:100]}.", suffix=".old", dir=out.parent))
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
    """Put back what a process that was killed while it replaced `out` had moved aside, or delete it
    if `out` is there.
    """
    ours = re.compile(rf"\.{re.escape(out.name[:100])}\.[^.]+\.old")  # not those of `out`.something
    for aside in sorted(path for path in out.parent.iterdir() if ours.fullmatch(path.name)):
        if kind_of(aside) != SCRATCH or {p.name for p in aside.iterdir()} - {MARK_FILE, out.name}:
            continue
        kept = aside / out.name
        if kept.is_dir() and (not out.exists() or not any(out.iterdir())):
            if out.exists():
                out.rmdir()
            kept.rename(out)
        if not kept.is_dir() or kind_of(out) == kind_of(kept):
            shutil.rmtree(aside)


@contextmanager
def scratch(beside: Path) -> Iterator[Path]:
    """A new folder for work in progress next to `beside`, deleted in the end."""
    folder = Path(tempfile.mkdtemp(".partial", f".{beside.name[:100]}.", beside.parent))
    mark(folder, SCRATCH)
    try:
        with writing(beside):
            yield folder
    finally:
        shutil.rmtree(folder)
