"""Errors of the file system, also those that libraries hide in exceptions of their own."""

import errno
import os
import re
from pathlib import Path

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY, errno.EBUSY)
NO_PLACE = (
    errno.ENAMETOOLONG,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENOENT,
    errno.EXDEV,
)
BROKEN = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE)
REMEDIES = {
    NO_SPACE: (
        "Nothing was left under the final name; free space or choose another --out, then run again"
    ),
    NOT_WRITABLE: (
        "Nothing was left under the final name; allow it or choose another place, then run again"
    ),
    NO_PLACE: "Give a path that can be read and written, then run again",
    BROKEN: "Nothing was left under the final name; look at the disk, then run again",
}
# Type and words of a library's exception -> what it stands for. torch.save does not say why.
_WORDS = (
    ("OperationalError", "disk is full", errno.ENOSPC),
    ("OperationalError", "readonly database", errno.EROFS),
    ("RuntimeError", "PytorchStreamWriter", errno.EIO),
    ("RuntimeError", "unexpected pos", errno.EIO),
    ("RuntimeError", "file write failed", errno.EIO),
)


def sentence(error: OSError) -> str | None:
    """What a user can do about an error of the file system; None where it says nothing of one."""
    for numbers, remedy in REMEDIES.items():
        if error.errno in numbers:
            what = "read or write" if numbers in (NOT_WRITABLE, NO_PLACE) else "write"
            where = f" {error.filename}" if error.filename else ""
            return f"cannot {what}{where}: {error.strerror}. {remedy}."
    return None


def as_os_error(error: BaseException, path: Path | None = None) -> OSError | None:
    """The OSError that a library's own exception stands for.

    Args:
        error: What safetensors, torch.save or sqlite3 raised while it wrote.
        path: The file that was written, for the sentence.

    Returns:
        An OSError with errno, or None where the exception is not one of writing.
    """
    if isinstance(error, OSError):
        return error
    number = _number_in(str(error), type(error).__name__)
    if number is None:
        return None
    reason = os.strerror(number)
    if number == errno.EIO and type(error).__name__ == "RuntimeError":
        reason = "the file could not be written to its end"
    return OSError(number, reason, None if path is None else str(path))


def _number_in(text: str, kind: str) -> int | None:
    """The errno that an exception of the type named `kind` speaks of; None for none."""
    if kind == "SafetensorError":
        told = re.search(r"os error (\d+)", text)
        if told is None:
            return None
        return int(told[1])
    for name, words, number in _WORDS:
        if kind == name and words in text:
            return number
    return None
