"""One process at a time writes a folder.

The lock is the system's own: it ends with its process, however that ends.
"""

import errno
import logging
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compress.core.errors import UserError

_LOG = logging.getLogger(__name__)

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

TITLE = "lock of diffusion-sr-compress"
BUSY = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK)
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
FAR = 2**30  # Windows locks bytes against reading: one that lies beyond the text


class BusyError(UserError):
    """Another process holds the lock."""


def lock_of(path: Path) -> Path:
    """The lock file beside `path`."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def locked(path: Path, option: str = "--out") -> Iterator[None]:
    """Hold the lock of `path`, which need not exist; its parent must.

    Args:
        path: The folder or file that is going to be written.
        option: What the user calls it, for the sentence.

    Raises:
        BusyError: Another process holds it; its number and machine are in the sentence.
        UserError: A file of somebody else stands where it goes.
    """
    file = lock_of(path)
    descriptor = _acquire(file, path, option)
    try:
        yield
    finally:
        _release(descriptor, file)


def _acquire(file: Path, path: Path, option: str) -> int:
    while True:
        if file.is_symlink() or (file.exists() and not _is_ours(file)):
            raise UserError(
                f"{file}: stands where the lock of {path} goes and was not written by this "
                f"toolkit; move it away, or choose another {option}"
            )
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _take(descriptor, file):
                raise BusyError(
                    f"{path}: {_holder(file)} is writing it; "
                    f"wait until it ends, or choose another {option}"
                )
            if _is_current(descriptor, file):
                _sign(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder removed the file in between: once more


def _take(descriptor: int, file: Path) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in BUSY:
            return False
        if error.errno not in NO_LOCKS:
            raise
        _LOG.warning(
            "%s is on a file system without locks (%s); start no second process there",
            file.parent,
            error.strerror,
        )
    return True


def _is_current(descriptor: int, file: Path) -> bool:
    """Whether the open file is still the one under its name."""
    try:
        named = os.stat(file)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(descriptor))


def _sign(descriptor: int) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    text = f"{TITLE}\nprocess {os.getpid()} on {platform.node()} (since {since})\n"
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, text.encode())


def _is_ours(file: Path) -> bool:
    """An empty one as well: its process was about to sign it."""
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        head = stream.read(len(TITLE))
    return TITLE.encode().startswith(head)


def _holder(file: Path) -> str:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    if len(lines) > 1:
        return lines[1]
    return "another process"


def _release(descriptor: int, file: Path) -> None:
    if sys.platform == "win32":
        os.lseek(descriptor, FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    elif _is_current(descriptor, file):
        file.unlink(missing_ok=True)  # while it is held, so that no other's file is removed
    os.close(descriptor)
