"""What was measured once: scores by the content of the images, the metric and its weights. One SQLite file.

Entries are written as soon as they are known, so that a killed evaluation goes on where it stopped.
"""

import hashlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from compress.cache import default_root
from compress.errors import UserError
from compress.files import writing

Value = float | bytes | str
VERSION = "1"  # part of every key: raise it when a score's meaning changes without its name or pyiqa's version


def default_file() -> Path:
    return default_root() / "metrics.sqlite"


def image_hash(image: np.ndarray) -> str:
    """Identity of a uint8 [H, W, 3] image."""
    return hashlib.sha256(str(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()[:32]


def key(*parts: str | None) -> str:
    """A key of everything that a value depends on."""
    return hashlib.sha256("|".join([VERSION, *(part or "-" for part in parts)]).encode()).hexdigest()[:40]


class ScoreCache:
    """`path` None keeps nothing. Several processes may read one file; only one writes."""

    def __init__(self, path: str | Path | None):
        self._base, self._path = None, path
        if path is None:
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            self._base = sqlite3.connect(path, timeout=60)
            self._base.execute("CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value) WITHOUT ROWID")
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path}: cannot be used as the cache of scores ({error}); remove it, choose another "
                            "--cache, or give --no-cache") from None

    def get(self, keys: Iterable[str]) -> dict[str, Value]:
        """The entries that are there."""
        if self._base is None:
            return {}
        found = ((k, self._base.execute("SELECT value FROM entries WHERE key = ?", (k,)).fetchone()) for k in keys)
        return {k: row[0] for k, row in found if row is not None}

    def put(self, entries: dict[str, Value]) -> None:
        if self._base is not None and entries:
            with writing(self._path), self._base:
                self._base.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?)", entries.items())
