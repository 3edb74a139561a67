"""Identity of files by their content, and an index that remembers it, so that the second question
is quick.

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
INDEX = "digests.sqlite"
Stamp = tuple[int, int, int, int, int]


def default_root() -> Path:
    """The folder of all caches: `diffusion-sr-compress` in XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diffusion-sr-compress"


def stamp(path: Path) -> Stamp:
    """Device, inode, size and the two times in ns: what changes when somebody writes to `path`."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def is_settled(found: Stamp, now_ns: int) -> bool:
    """Whether a write after `now_ns` must show in the times of a file with the stamp `found`."""
    return max(found[3], found[4]) < now_ns - RACY_NS


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
        if (
            self._base is None or os.getpid() != self._process
        ):  # a connection does not outlive a fork
            return None
        try:
            row = self._base.execute(
                "SELECT stamp, sha256 FROM digests WHERE path = ?", (path,)
            ).fetchone()
            return None if row is None else (tuple(json.loads(row[0])), str(row[1]))
        except (sqlite3.Error, ValueError, TypeError):
            return None

    def _keep(self, path: str, found: Stamp, digest: str) -> None:
        self._known[path] = found, digest
        if self._base is None or os.getpid() != self._process:
            return
        try:
            with self._base:
                self._base.execute(
                    "INSERT OR REPLACE INTO digests VALUES (?, ?, ?)",
                    (path, json.dumps(found), digest),
                )
        except sqlite3.Error:
            self._base = None

    def digest(self, path: Path) -> str:
        """SHA-256 of the content of `path`, 64 hex digits. Raises OSError if it cannot be read."""
        path = path.resolve()
        before = stamp(path)
        stored = self._stored(str(path))
        if stored is not None and stored[0] == before and len(stored[1]) == 64:
            return stored[1]
        began = time.time_ns()
        digest = content_digest(path)
        if is_settled(before, began) and stamp(path) == before:
            self._keep(str(path), before, digest)
        return digest


@cache
def index_in(root: Path) -> DigestIndex:
    return DigestIndex(root / INDEX)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's content, 64 hex digits; read again only if it may have changed.

    Raises UserError where the file cannot be read.
    """
    try:
        return index_in(default_root()).digest(Path(path))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); make it readable, or take it out of "
            "what the recipe names"
        ) from None


def list_digest(files: Iterable[Path]) -> str:
    """Identity of files by name, content and order, wherever they lie: 16 hex digits."""
    listing = "\n".join(f"{path.name} {file_digest(path)}" for path in files)
    return hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()[:16]


def files_key(files: Iterable[str | Path]) -> str:
    """Identity of weight files, part of cache keys: the name and content of each, also of all below
    a folder.

    A name that is no file, such as a hub id, adds nothing here: it stands in the config that the
    key holds as well.
    """
    parts = []
    for top in map(Path, files):
        below = (
            sorted(p for p in top.rglob("*") if p.is_file())
            if top.is_dir()
            else [top] * top.is_file()
        )
        for path in below:
            name = path.relative_to(top).as_posix() if top.is_dir() else path.name
            parts.append([name, file_digest(path)])
    return json.dumps(parts)
