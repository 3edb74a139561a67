"""What was measured once, in one SQLite file: scores by image content, metric and weights.

Entries are written as soon as they are known, so that a killed evaluation goes on where it stopped.
"""

import hashlib
import logging
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from compress.core.errors import UserError
from compress.core.identity import default_root

_LOG = logging.getLogger(__name__)

Value = float | bytes | str
# Part of every key: raise it when a score's meaning changes without its name or pyiqa's version.
VERSION = "1"
TIMEOUT = 60.0  # seconds to wait for another process that writes


def default_file() -> Path:
    """The cache that all evaluations share unless another is named."""
    return default_root() / "metrics.sqlite"


def image_hash(image: np.ndarray) -> str:
    """Identity of a uint8 [H, W, 3] image."""
    content = str(image.shape).encode() + np.ascontiguousarray(image).tobytes()
    return hashlib.sha256(content).hexdigest()[:32]


def key(*parts: str | None) -> str:
    """A key of everything that a value depends on."""
    text = "|".join([VERSION, *(part or "-" for part in parts)])
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def seal(key: str, value: Value) -> str:
    """The digest that an entry is stored with: of its key, its kind and its value."""
    if isinstance(value, bytes):
        kind, content = "bytes", value
    elif isinstance(value, str):
        kind, content = "text", value.encode()
    else:
        kind, content = "number", float(value).hex().encode()
    return hashlib.sha256(f"{key}|{kind}|".encode() + content).hexdigest()[:32]


class ScoreCache:
    """Entries of one file; several processes may read it, only one writes.

    An entry that is not what was written counts as missing. A cache that cannot be written is told
    once, and not asked again.

    Args:
        path: The SQLite file, made where it is missing; None keeps nothing.

    Raises:
        UserError: The file is something else.
    """

    def __init__(self, path: str | Path | None):
        self._path = path
        self._damaged = 0  # entries found so far
        self._base: sqlite3.Connection | None = None
        if path is not None:
            self._open(Path(path))

    def _open(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, timeout=TIMEOUT)
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS sealed (key TEXT PRIMARY KEY, value, digest TEXT) "
                "WITHOUT ROWID"
            )
        except (sqlite3.OperationalError, OSError) as error:
            # A disk that is full, or not ours to write.
            self._give_up(error)
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self._path}: cannot be used as the cache of scores ({error}); remove it, "
                "choose another --cache, or give --no-cache"
            ) from None

    def _give_up(self, error: Exception) -> None:
        """Say that nothing is kept from here on, and keep nothing."""
        self._base = None
        _LOG.warning(
            "cache of scores %s: cannot be used (%s); "
            "the evaluation goes on and keeps nothing there",
            self._path,
            error,
        )

    def _entry(self, base: sqlite3.Connection, key: str) -> Value | None:
        query = "SELECT value, digest FROM sealed WHERE key = ?"
        row = base.execute(query, (key,)).fetchone()
        if row is None:
            return None
        value, digest = row
        if value is None:  # how SQLite keeps a NaN, which nothing is to be answered with
            return None
        if digest == seal(key, value):
            return value
        self._damaged += 1
        if self._damaged == 1:
            _LOG.warning(
                "cache of scores %s: holds damaged entries; their images are measured again",
                self._path,
            )
        return None

    def get(self, keys: Iterable[str]) -> dict[str, Value]:
        """The entries that are there and sound."""
        found: dict[str, Value] = {}
        for key in keys:
            if self._base is None:
                break
            try:
                value = self._entry(self._base, key)
            except sqlite3.Error as error:
                self._give_up(error)
                break
            if value is not None:
                found[key] = value
        return found

    def numbers(self, keys: Iterable[str]) -> dict[str, float]:
        """The entries of `get` that are scores."""
        found = self.get(keys)
        return {key: value for key, value in found.items() if isinstance(value, int | float)}

    def put(self, entries: Mapping[str, Value]) -> None:
        """Keep `entries`; one that cannot be written is measured again another time."""
        if self._base is None or not entries:
            return
        try:
            with self._base:
                self._base.executemany(
                    "INSERT OR REPLACE INTO sealed VALUES (?, ?, ?)",
                    [(key, value, seal(key, value)) for key, value in entries.items()],
                )
        except sqlite3.Error as error:
            self._give_up(error)
