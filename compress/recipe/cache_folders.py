"""Writing and deleting entries of the pass cache.

An entry is written under a temporary name and renamed, so that what has the final name is whole.
While it is written the temporary folder is locked. So a temporary folder that nobody holds a lock
of belongs to a process that was killed, and may be deleted.
"""

import errno
import itertools
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compress.recipe.cache_entry import only_files, problem

# Windows has no locks of folders: there what is unlocked cannot be told from what is in use, and
# nothing is swept.
HAS_LOCKS = sys.platform != "win32"
if sys.platform != "win32":
    import fcntl

_PARTIAL = re.compile(r"[0-9a-f]{32}(\.\d+)+\.partial")
# What renaming a folder raises where the new name is taken.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
_RENAMES = 10  # how often another process may be quicker
_WAIT_S = 0.01  # before a temporary folder is claimed again that a sweep is looking at
_count = itertools.count()


def remove(folder: Path) -> None:
    """Delete one entry: out of sight by a rename, then its files.

    Raises:
        OSError: The folder holds anything that no cache wrote.
    """
    if folder.is_symlink() or not folder.is_dir() or not only_files(folder):
        raise OSError(
            errno.ENOTEMPTY, "holds something that no cache wrote, and is left alone", str(folder)
        )
    hidden = folder
    if not _PARTIAL.fullmatch(folder.name):
        hidden = _temporary(folder)
        folder.rename(hidden)
    for path in list(hidden.iterdir()):
        path.unlink(missing_ok=True)
    hidden.rmdir()


def _temporary(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.{os.getpid()}.{next(_count)}.partial")


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A temporary folder to write an entry in, which takes the name `folder` at the end.

    Where another process finished the same entry first, that one stays.

    Raises:
        OSError: The entry cannot be written.
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


def _claim(folder: Path) -> tuple[Path, int | None]:
    """A new temporary folder for `folder`, and the descriptor that holds its lock."""
    while True:
        partial = _temporary(folder)
        try:
            partial.mkdir(parents=True)
        except FileExistsError:  # of a killed process that had our number
            continue
        if not HAS_LOCKS:
            return partial, None
        try:
            descriptor = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:  # swept between the two lines
            continue
        if not _lock(descriptor):
            time.sleep(_WAIT_S)
        elif partial.is_dir():
            return partial, descriptor
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Take the lock of an open folder; False where another process holds it."""
    if sys.platform == "win32":
        raise NotImplementedError("folders have no locks on Windows")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _publish(partial: Path, folder: Path) -> None:
    """Rename `partial` to `folder`, in the place of a damaged entry, but not of a sound one."""
    for _ in range(_RENAMES):
        try:
            partial.rename(folder)
            return
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        if problem(folder) is None:
            return
        try:
            remove(folder)
        except FileNotFoundError:  # another process was quicker
            continue
    raise OSError(errno.EBUSY, "other processes keep writing this entry", str(folder))


def sweep(root: Path) -> int:
    """Delete the temporary folders of killed processes in the cache `root`.

    Returns:
        How many there were.
    """
    if not HAS_LOCKS or not root.is_dir():
        return 0
    count = 0
    for partial in root.iterdir():
        if _PARTIAL.fullmatch(partial.name) and not partial.is_symlink() and partial.is_dir():
            count += _sweep_one(partial)
    return count


def _sweep_one(partial: Path) -> bool:
    """Delete a temporary folder unless it is in use, gone already, or cannot be written."""
    try:
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            if not _lock(descriptor):
                return False
            remove(partial)
            return True
        finally:
            os.close(descriptor)
    except OSError:
        return False
