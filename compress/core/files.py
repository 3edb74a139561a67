"""How a file comes under its final name: whole or not at all, and never over a user's file."""

import hashlib
import itertools
import os
import platform
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from compress.core.errors import UserError
from compress.core.os_errors import as_os_error

# Stands in every file that is written under a name that a user chose. A text that only speaks of
# the toolkit does not hold it.
MADE_BY = "diffusion-sr-compress/file/1"
# The same of model and router files, in their header as weight_file.py and safetensors write it.
HEADERS = (
    '"format":"diffusion-sr-compress/1"',
    '"format":"diffusion-sr-compress-router/1"',
    '"format":"diffusion-sr-compress-steps/1"',
    '"format":"diffusion-sr-compress-references/1"',
)
# Bytes of a name, which leaves room for what temporary names add.
LONGEST = 200
# Bytes that a temporary name takes over from the final one.
LONGEST_SUFFIX, LONGEST_STEM = 40, 80
SEARCHED = 2**20  # bytes at either end of a file in which these are looked for
RESERVED = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"com{i}" for i in range(1, 10)),
    *(f"lpt{i}" for i in range(1, 10)),
}
_COUNTER = itertools.count()
_SWEPT: set[Path] = set()
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def file_name(text: str) -> str:
    """`text`, if it can be the name of a file on every system.

    Raises:
        ValueError: It cannot; pydantic turns this into its own error.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", text) or text.endswith("."):
        raise ValueError(
            "must be the name of a file: "
            "up to 100 of A-Z, a-z, 0-9, '.', '_' and '-', with no dot at either end"
        )
    if text.partition(".")[0].lower() in RESERVED:
        raise ValueError("is a name that Windows keeps for a device; choose another")
    return text


FileName = Annotated[str, AfterValidator(file_name)]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise what a library says about a full disk as the OSError that it is."""
    try:
        yield
    except Exception as error:
        told = as_os_error(error, path)
        if told is error and told.errno and told.filename is None:
            told.filename = str(path)
        if told is None or told is error:
            raise
        raise told from error


def temporary(path: Path) -> Path:
    """A name beside `path` with its suffix, which this process alone uses.

    A later process knows by it what was left behind.
    """
    suffix = path.suffix if len(os.fsencode(path.suffix)) < LONGEST_SUFFIX else ""
    stem = os.fsencode(path.stem)[:LONGEST_STEM].decode("utf-8", "ignore")
    return path.with_name(f".{stem}.{_HOST}-{os.getpid()}-{next(_COUNTER)}.partial{suffix}")


def sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left half written in `folder`.

    Each process does so once a folder.
    """
    if folder in _SWEPT:
        return
    _SWEPT.add(folder)
    for path in folder.glob(f".*.{_HOST}-*.partial*"):
        writer = re.search(rf"\.{_HOST}-(\d+)-\d+\.partial(\.[^.]*)?$", path.name)
        if writer is None or path.is_symlink() or not path.is_file():
            continue
        if not is_running(int(writer[1])):
            path.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Whether a process of this machine has the number `pid`."""
    if os.name == "nt":
        return True  # there os.kill would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write beside `path`, then rename: a file under its final name is complete.

    Args:
        path: The final name. Its folder must exist.

    Yields:
        A temporary name in the same folder, with the same suffix. It is removed if the body fails.

    Raises:
        OSError: The body failed to write, also where a library reports that by an exception of its
            own.
    """
    path = Path(path)
    sweep(path.parent)
    partial = temporary(path)
    try:
        with writing(path):
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8 under `path`, through a temporary name.

    What UTF-8 cannot hold is escaped.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def check_name(path: Path, option: str) -> None:
    """Refuse a name that no file or folder of ours can have.

    Args:
        path: The name; nothing need be there.
        option: What the user calls it, such as ``--out``.

    Raises:
        UserError: The name is empty, too long, or lies below a file or a folder without access.
    """
    path = Path(path)
    if path.name in ("", ".", ".."):
        raise UserError(
            f"{option} '{path}': names no place of its own; "
            "give a name that is not yet used, or one that this command made before"
        )
    if "\0" in str(path) or len(os.fsencode(path.name)) > LONGEST:
        raise UserError(
            f"{option} '{str(path)[:60]}…': the name is longer than {LONGEST} bytes "
            "or holds a zero byte; give a shorter one"
        )
    for parent in path.absolute().parents:
        if _exists(parent, path, option):
            _check_parent(parent, path, option)
            return


def _exists(parent: Path, path: Path, option: str) -> bool:
    try:
        return parent.exists()
    except OSError as error:
        raise UserError(
            f"{option} {path}: {parent} cannot be reached ({error.strerror}); "
            f"choose another {option}"
        ) from None


def _check_parent(parent: Path, path: Path, option: str) -> None:
    """Raise UserError unless something can be put into `parent`, the lowest that there is."""
    if not parent.is_dir():
        raise UserError(
            f"{option} {path}: {parent} is a file, not a folder; choose another {option}"
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path}: {parent} cannot be written to; choose another {option}")


def is_made_here(path: Path) -> bool:
    """Whether a file says that this toolkit wrote it."""
    try:
        with path.open("rb") as stream:
            head = stream.read(SEARCHED)
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - SEARCHED))
            tail = stream.read(SEARCHED)
    except OSError:
        return False
    is_weight_file = head[8:9] == b"{"
    if is_weight_file and any(mark.encode() in head for mark in HEADERS):
        return True
    return MADE_BY.encode() in head or MADE_BY.encode() in tail


def check_file(path: Path, option: str, inputs: Iterable[Path] = ()) -> None:
    """Refuse to write a file over what is not ours, before any work.

    Args:
        path: Where the command is going to write.
        option: What the user calls it, such as ``--out``.
        inputs: Files and folders that the command reads.

    Raises:
        UserError: `path` is a folder, a link, an input, a file of somebody else, or no name of a
            file.
    """
    path = Path(path)
    check_name(path, option)
    if path.is_symlink():
        raise UserError(
            f"{option} {path}: is a link, and what it leads to is not overwritten; "
            "give another name"
        )
    if not path.exists():
        return
    if path.is_dir():
        raise UserError(f"{option} {path}: is a folder; give the name of a file")
    for source in inputs:
        if is_same(path, source):
            raise UserError(f"{option} {path}: is also an input of this command; give another name")
    if not path.is_file():
        raise UserError(f"{option} {path}: is no ordinary file; give another name")
    if path.stat().st_size and not is_made_here(path):
        raise UserError(
            f"{option} {path}: exists and was not written by this toolkit, so it is not "
            "overwritten; give another name, or remove it"
        )


def check_weights(path: Path, option: str, inputs: Iterable[Path] = ()) -> Path:
    """`check_file` for a weight file and for the record that goes beside it.

    Returns:
        Where the record goes: `path` with the suffix .json.

    Raises:
        UserError: By check_file, or for a name with another suffix than .safetensors: under .json
            the record would replace the weights.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(
            f"{option} {path}: give a name that ends in .safetensors; its record goes beside it"
        )
    for file in (path, path.with_suffix(".json")):
        check_file(file, option, inputs)
    return path.with_suffix(".json")


def is_same(a: Path, b: Path) -> bool:
    """Whether two names lead to one file or folder, by links too; it need not exist yet."""
    try:
        return os.path.samefile(a, b)
    except OSError:
        return Path(a).resolve() == Path(b).resolve()
