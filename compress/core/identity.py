"""Identity of files by their content, and an index that remembers it.

A digest is remembered under path, size, inode and the times of the last change to content and
inode. A file that was changed less than RACY_NS before it was read is not remembered: a second
write within the same tick of the clock could leave all of these as they are (git calls such entries
racy).
"""

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from compress.core.errors import UserError

RACY_NS = 2_000_000_000
HEX_DIGITS = 64  # of a SHA-256
INDEX = "digests.sqlite"
Stamp = tuple[int, int, int, int, int]


def default_root() -> Path:
    """The folder of all caches: `diffusion-sr-compress` in XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diffusion-sr-compress"


def stamp(path: Path) -> Stamp:
    """Device, inode, size and the two times in ns: what changes when somebody writes to `path`."""
    status = path.stat()
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def is_settled(seen: Stamp, now_ns: int) -> bool:
    """Whether a write after `now_ns` must show in the times of a file with the stamp `seen`."""
    *_, modified, changed = seen
    return max(modified, changed) < now_ns - RACY_NS


def content_digest(path: Path) -> str:
    """SHA-256 of the bytes of `path` as they are read now, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class DigestIndex:
    """{path: (stamp, SHA-256)} in one SQLite file, or in memory where that cannot be written."""

    def __init__(self, file: Path):
        self._known: dict[str, tuple[Stamp, str]] = {}
        self._base: sqlite3.Connection | None = None
        self._process = os.getpid()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(file, timeout=10)
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS digests "
                "(path TEXT PRIMARY KEY, stamp TEXT, sha256 TEXT) "
                "WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error):
            self._base = None  # nothing depends on it but time

    def _stored(self, path: str) -> tuple[Stamp, str] | None:
        if path in self._known:
            return self._known[path]
        base = self._connection()
        if base is None:
            return None
        try:
            row = base.execute(
                "SELECT stamp, sha256 FROM digests WHERE path = ?", (path,)
            ).fetchone()
            if row is None:
                return None
            device, inode, size, modified, changed = json.loads(row[0])
        except (sqlite3.Error, ValueError, TypeError):
            return None
        return (device, inode, size, modified, changed), str(row[1])

    def _connection(self) -> sqlite3.Connection | None:
        """The index on the disk, if there is one. A connection does not outlive a fork."""
        return self._base if os.getpid() == self._process else None

    def _keep(self, path: str, seen: Stamp, digest: str) -> None:
        self._known[path] = seen, digest
        base = self._connection()
        if base is None:
            return
        try:
            with base:
                base.execute(
                    "INSERT OR REPLACE INTO digests VALUES (?, ?, ?)",
                    (path, json.dumps(seen), digest),
                )
        except sqlite3.Error:
            self._base = None

    def digest(self, path: Path) -> str:
        """SHA-256 of the content of `path`, 64 hex digits. Raises OSError if it cannot be read."""
        path = path.resolve()
        before = stamp(path)
        stored = self._stored(str(path))
        if stored is not None:
            seen, digest = stored
            if seen == before and len(digest) == HEX_DIGITS:
                return digest
        began = time.time_ns()
        digest = content_digest(path)
        if is_settled(before, began) and stamp(path) == before:
            self._keep(str(path), before, digest)
        return digest


@cache
def index_in(root: Path) -> DigestIndex:
    """The one index of this process in the folder `root`."""
    return DigestIndex(root / INDEX)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's content, 64 hex digits; read again only if it may have changed.

    Raises UserError where the file cannot be read.
    """
    try:
        return index_in(default_root()).digest(Path(path))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); "
            "make it readable, or take it out of what the recipe names"
        ) from None


def list_digest(files: Iterable[Path]) -> str:
    """Identity of files by name, content and order, wherever they lie: 16 hex digits."""
    listing = "\n".join(f"{path.name} {file_digest(path)}" for path in files)
    return hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()[:16]


def files_key(files: Iterable[str | Path]) -> str:
    """Identity of weight files, part of cache keys: the name and content of each.

    A folder stands for all files below it. A name that is no file, such as a hub id, adds nothing
    here: it stands in the config that the key holds as well.
    """
    parts = []
    for top in map(Path, files):
        if top.is_file():
            parts.append([top.name, file_digest(top)])
        elif top.is_dir():
            below = [path for path in top.rglob("*") if path.is_file()]
            for path in sorted(below):
                parts.append([path.relative_to(top).as_posix(), file_digest(path)])
    return json.dumps(parts)
