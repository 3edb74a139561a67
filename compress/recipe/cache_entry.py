"""One entry of the cache on the disk: a folder with two files and a record.

After a pass the two files are the model and its ledger. Of an export they are its folder in one
archive, and what the target said of it. The record holds the size and the digest of both. So an
entry that was cut off or changed is told from a sound one. `cache_folders` writes and deletes
entries.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.core.errors import UserError
from compress.core.identity import content_digest
from compress.core.json_files import read_json

RECORD = "entry.json"
PASS, LEDGER, MODEL = "diffusion-sr-compress/pass-1", "ledger.json", "model.safetensors"
EXPORT, MADE, ARCHIVE = "diffusion-sr-compress/export-1", "made.json", "export.tar"
# Format of an entry -> its files beside the record.
FORMATS = {PASS: (MODEL, LEDGER), EXPORT: (ARCHIVE, MADE)}
FILES = {RECORD, *(name for names in FORMATS.values() for name in names)}
_NAME = re.compile(r"[0-9a-f]{32}")
# Stands in the header of every model file that this toolkit wrote.
_MODEL_MARK = b"diffusion-sr-compress/1"
# bytes at the beginning of a model file in which the mark is looked for
_HEADER_BYTES = 1 << 22


@dataclass(frozen=True)
class Entry:
    """One entry as the folder shows it.

    Attributes:
        folder: Where it lies; its name is the key.
        bytes: Size of all its files.
        used: When it was last read or written, in s since 1970.
        label: Source and passes, or what was exported, for people.
    """

    folder: Path
    bytes: int
    used: float
    label: str


def seal(folder: Path, label: str, kind: str = PASS) -> None:
    """Write the record of a folder that holds the files of a format: their sizes and digests.

    Args:
        folder: Where they lie.
        label: What the entry holds, for people.
        kind: The format, a key of FORMATS.
    """
    files = {}
    for name in FORMATS[kind]:
        path = folder / name
        files[name] = {"bytes": path.stat().st_size, "sha256": content_digest(path)}
    record = {"format": kind, "label": label, "files": files}
    (folder / RECORD).write_text(json.dumps(record), encoding="utf-8")


def problem(folder: Path, kind: str | None = None) -> str | None:
    """What is wrong with an entry, or None. Every byte of it is read.

    Args:
        folder: Where it lies.
        kind: The format that it has to have; None for any.
    """
    if not folder.is_dir():
        return "is no folder"
    try:
        record = read_json(folder / RECORD, "the record")
        files, found = record.get("files"), record.get("format")
        if found not in FORMATS or kind not in (None, found) or not isinstance(files, dict):
            return f"{RECORD} is of another format"
        for name in FORMATS[found]:
            trouble = _file_problem(folder / name, files.get(name))
            if trouble is not None:
                return trouble
    except UserError:
        return f"{RECORD} is missing or damaged"
    except OSError as error:
        return f"cannot be read, {error.strerror}"
    return None


def _file_problem(path: Path, recorded: Any) -> str | None:
    """What is wrong with one file, against what the record says of it."""
    if not path.is_file():
        return f"{path.name} is missing"
    size = path.stat().st_size
    if not isinstance(recorded, dict) or recorded.get("bytes") != size:
        return f"{path.name} has {size:,} bytes, and not as many as were written"
    if recorded.get("sha256") != content_digest(path):
        return f"{path.name} is not what was written"
    return None


def is_ours(folder: Path) -> bool:
    """Whether a folder is an entry that this toolkit wrote, sound or not.

    Its name, the names of its files and a mark in them decide.
    """
    if folder.is_symlink() or not folder.is_dir() or not _NAME.fullmatch(folder.name):
        return False
    return only_files(folder) and (_record_is_ours(folder) or _model_is_ours(folder))


def _record_is_ours(folder: Path) -> bool:
    try:
        record = read_json(folder / RECORD, "the record")
    except UserError:
        return False
    return record.get("format") in FORMATS


def _model_is_ours(folder: Path) -> bool:
    """The mark of an entry whose record is damaged, or that is older than records."""
    try:
        with (folder / MODEL).open("rb") as stream:
            return _MODEL_MARK in stream.read(_HEADER_BYTES)
    except OSError:
        return False


def only_files(folder: Path) -> bool:
    """Whether a folder holds nothing but files of an entry, half-written ones included."""
    half_written = tuple(f".{Path(name).stem}." for name in (MODEL, ARCHIVE))
    for path in folder.iterdir():
        if path.is_symlink() or not path.is_file():
            return False
        if path.name not in FILES and not path.name.startswith(half_written):
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
    found: list[Entry] = []
    if not root.is_dir():
        return found
    for folder in sorted(root.iterdir()):
        try:
            if is_ours(folder):
                found.append(_read_entry(folder))
        except FileNotFoundError:  # deleted by another process meanwhile
            continue
    return sorted(found, key=lambda entry: (entry.used, entry.folder.name))


def _read_entry(folder: Path) -> Entry:
    files = [path.stat() for path in folder.iterdir()]
    size = sum(file.st_size for file in files)
    used = max(file.st_mtime for file in files)
    return Entry(folder, size, used, _read_label(folder))


def _read_label(folder: Path) -> str:
    try:
        return str(read_json(folder / RECORD, "the record").get("label", ""))
    except UserError:
        return "(damaged, or of an earlier version)"
