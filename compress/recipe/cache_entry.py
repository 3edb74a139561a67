"""One entry of the pass cache on the disk: a folder of three files, with the digest of each in the
record.

An entry is written under a temporary name and renamed, so that what has the final name is whole.
While it is written the folder is locked; a temporary folder that nobody holds a lock of belongs to
a process that was killed.
"""

import errno
import itertools
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compress.core.errors import UserError
from compress.core.identity import content_digest
from compress.core.json_files import read_json

try:
    import fcntl
except (
    ImportError
):  # Windows: what is unlocked cannot be told from what is in use, so nothing is swept
    fcntl = None

FORMAT = "diffusion-sr-compress/pass-1"
RECORD, LEDGER, MODEL = "entry.json", "ledger.json", "model.safetensors"
FILES = {RECORD, LEDGER, MODEL}
_NAME = re.compile(r"[0-9a-f]{32}")
_PARTIAL = re.compile(r"[0-9a-f]{32}(\.\d+)+\.partial")
_MODEL_MARK = b"diffusion-sr-compress/1"
_HEADER_BYTES = 1 << 22
_count = itertools.count()


@dataclass(frozen=True)
class Entry:
    """`used`: the time in s since 1970 when it was last read or written. `label`: source and
    passes.
    """

    folder: Path
    bytes: int
    used: float
    label: str


def seal(folder: Path, label: str) -> None:
    """Write the record of a folder that holds model and ledger: their sizes and digests."""
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": content_digest(folder / name)}
        for name in (MODEL, LEDGER)
    }
    record = {"format": FORMAT, "label": label, "files": files}
    (folder / RECORD).write_text(json.dumps(record), encoding="utf-8")


def problem(folder: Path) -> str | None:
    """What is wrong with an entry, or None. Every byte of it is read."""
    if not folder.is_dir():
        return "is no folder"
    try:
        record = read_json(folder / RECORD, "the record")
        files = record.get("files")
        if record.get("format") != FORMAT or not isinstance(files, dict):
            return f"{RECORD} is of another format"
        for name in (MODEL, LEDGER):
            path, said = folder / name, files.get(name)
            if not path.is_file():
                return f"{name} is missing"
            if not isinstance(said, dict) or said.get("bytes") != path.stat().st_size:
                return f"{name} has {path.stat().st_size:,} bytes, and not as many as were written"
            if said.get("sha256") != content_digest(path):
                return f"{name} is not what was written"
    except UserError:
        return f"{RECORD} is missing or damaged"
    except OSError as error:
        return f"cannot be read, {error.strerror}"
    return None


def is_ours(folder: Path) -> bool:
    """Whether a folder is an entry that this toolkit wrote, sound or not: by its name, its files
    and a mark in them.
    """
    if folder.is_symlink() or not folder.is_dir() or not _NAME.fullmatch(folder.name):
        return False
    if not _only_files(folder):
        return False
    try:
        if read_json(folder / RECORD, "the record").get("format") == FORMAT:
            return True
    except UserError:
        pass  # an entry of before there were records, or a damaged one: the model's header tells
    try:
        with (folder / MODEL).open("rb") as stream:
            return _MODEL_MARK in stream.read(_HEADER_BYTES)
    except OSError:
        return False


def _only_files(folder: Path) -> bool:
    """Whether a folder holds nothing but files of an entry, half-written ones included."""
    for path in folder.iterdir():
        if path.is_symlink() or not path.is_file():
            return False
        if path.name not in FILES and not path.name.startswith(f".{Path(MODEL).stem}."):
            return False
    return True


def touch(folder: Path) -> None:
    """Note that an entry was used now; a read-only cache goes by the time it was made."""
    try:
        os.utime(folder / RECORD)
    except OSError:
        return


def entries(root: Path) -> list[Entry]:
    """All entries of the cache `root`, the least recently used first."""
    found = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        try:
            if is_ours(folder):
                found.append(_entry(folder))
        except FileNotFoundError:  # deleted by another process meanwhile
            continue
    return sorted(found, key=lambda entry: (entry.used, entry.folder.name))


def _entry(folder: Path) -> Entry:
    files = [path.stat() for path in folder.iterdir()]
    size, used = sum(file.st_size for file in files), max(file.st_mtime for file in files)
    return Entry(folder, size, used, _label(folder))


def _label(folder: Path) -> str:
    try:
        return str(read_json(folder / RECORD, "the record").get("label", ""))
    except UserError:
        return "(damaged, or of an earlier version)"


def remove(folder: Path) -> None:
    """Delete one entry: out of sight by a rename, then its files. Raises OSError for a folder with
    anything else.
    """
    if folder.is_symlink() or not folder.is_dir() or not _only_files(folder):
        raise OSError(
            errno.ENOTEMPTY, "holds something that no cache wrote, and is left alone", str(folder)
        )
    hidden = folder if _PARTIAL.fullmatch(folder.name) else _temporary(folder)
    if hidden != folder:
        folder.rename(hidden)
    for path in list(hidden.iterdir()):
        path.unlink(missing_ok=True)
    hidden.rmdir()


def _temporary(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.{os.getpid()}.{next(_count)}.partial")


def _claim(folder: Path) -> tuple[Path, int | None]:
    """A new temporary folder for `folder`, and the descriptor that holds its lock."""
    while True:
        partial = _temporary(folder)
        try:
            partial.mkdir(parents=True)
        except FileExistsError:  # of a killed process that had our number
            continue
        if fcntl is None:
            return partial, None
        try:
            descriptor = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:  # swept between the two lines
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if partial.is_dir():
                return partial, descriptor
        except BlockingIOError:
            time.sleep(0.01)
        os.close(descriptor)


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A temporary folder to write an entry in, which takes the name `folder` at the end.

    Where another process finished the same entry first, that one stays. Raises OSError where it
    cannot be written.
    """
    partial, descriptor = _claim(folder)
    try:
        yield partial
        _publish(partial, folder)
    finally:
        if partial.is_dir():
            remove(partial)
        if descriptor is not None:
            os.close(descriptor)


def _publish(partial: Path, folder: Path) -> None:
    """Rename `partial` to `folder`, in the place of a damaged entry, but not of a sound one."""
    for _ in range(10):
        try:
            partial.rename(folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        if problem(folder) is None:
            return
        try:
            remove(folder)
        except FileNotFoundError:  # another process was quicker
            continue
    raise OSError(errno.EBUSY, "other processes keep writing this entry", str(folder))


def sweep(root: Path) -> int:
    """Delete the temporary folders of killed processes in the cache `root`; returns how many there
    were.
    """
    count = 0
    if fcntl is None or not root.is_dir():
        return count
    for partial in root.iterdir():
        if not _PARTIAL.fullmatch(partial.name) or partial.is_symlink() or not partial.is_dir():
            continue
        try:
            descriptor = os.open(partial, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(partial)
                count += 1
            finally:
                os.close(descriptor)
        except OSError:  # in use, gone already, or in a cache that cannot be written
            continue
    return count
