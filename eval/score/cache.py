"""What was measured once: scores by the content of the images, the metric and its weights. One SQLite file.

Entries are written as soon as they are known, so that a killed evaluation goes on where it stopped.
"""

import hashlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from compress.core.errors import UserError
from compress.core.identity import default_root

Value = float | bytes | str
VERSION = "1"  # part of every key: raise it when a score's meaning changes without its name or pyiqa's version


def default_file() -> Path:
    return default_root() / "metrics.sqlite"


def image_hash(image: np.ndarray) -> str:
    """Identity of a uint8 [H, W, 3] image."""
    return hashlib.sha256(
        str(image.shape).encode() + np.ascontiguousarray(image).tobytes()
    ).hexdigest()[:32]


def key(*parts: str | None) -> str:
    """A key of everything that a value depends on."""
    return hashlib.sha256(
        "|".join([VERSION, *(part or "-" for part in parts)]).encode()
    ).hexdigest()[:40]


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
    """`path` None keeps nothing. Several processes may read one file; only one writes.

    An entry that is not what was written is not there. A cache that cannot be written is told once, and no longer asked.
    """

    def __init__(self, path: str | Path | None):
        self._base: sqlite3.Connection | None = None
        self._path, self._damaged = path, 0
        if path is None:
            return
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, timeout=60)
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS sealed (key TEXT PRIMARY KEY, value, digest TEXT) "
                "WITHOUT ROWID"
            )
        except (
            sqlite3.OperationalError,
            OSError,
        ) as error:  # a disk that is full, or not ours to write
            self._give_up(error)
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{path}: cannot be used as the cache of scores ({error}); remove it, choose another "
                "--cache, or give --no-cache"
            ) from None

    def _give_up(self, error: Exception) -> None:
        """Say that nothing is kept from here on, and keep nothing."""
        self._base = None
        print(
            f"cache of scores {self._path}: cannot be used ({error}); the evaluation goes on and keeps nothing there"
        )

    def _entry(self, key: str) -> Value | None:
        row = self._base.execute(
            "SELECT value, digest FROM sealed WHERE key = ?", (key,)
        ).fetchone()
        if (
            row is None or row[0] is None
        ):  # None is how SQLite keeps a NaN, which nothing is to be answered with
            return None
        if row[1] == seal(key, row[0]):
            return row[0]
        self._damaged += 1
        if self._damaged == 1:
            print(
                f"cache of scores {self._path}: holds damaged entries; their images are measured again"
            )
        return None

    def get(self, keys: Iterable[str]) -> dict[str, Value]:
        """The entries that are there and sound."""
        found: dict[str, Value] = {}
        for key in keys:
            if self._base is None:
                break
            try:
                value = self._entry(key)
            except sqlite3.Error as error:
                self._give_up(error)
                break
            if value is not None:
                found[key] = value
        return found

    def put(self, entries: dict[str, Value]) -> None:
        """Keep `entries`; what cannot be written is not lost for it, only measured again another time."""
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
