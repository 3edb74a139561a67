"""Exports that were made before, in the cache beside the passes.

An entry holds the exported folder in one archive, and what the target said of it, parity included.
Its key is everything that an export depends on: the model's file, the options, the calibration
photographs, the code, the installed packages and the processor. Only exports that agree with torch
are kept. `python -m compress.cache` lists and shortens them.
"""

import hashlib
import json
import logging
import platform
import subprocess
import tarfile
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import torch

from compress.core import folders, marks
from compress.core.code_version import code_version
from compress.core.errors import UserError
from compress.core.files import writing
from compress.core.identity import files_key
from compress.core.json_files import read_json
from compress.core.machine import processor
from compress.data.calibration import calibration_hash
from compress.model.sr_model import SRModel
from compress.recipe import cache_entry, cache_folders
from compress.recipe.cache import KEY_DIGITS
from compress.recipe.export_options import ExportOptions
from export.parity.rows import failures
from export.targets.contract import Exported
from export.targets.export_folder import export
from export.targets.table import check_options, check_packages
from export.targets.web_engine import page_digest

_LOG = logging.getLogger(__name__)

# Of Exported, what a file can hold.
KEPT = ("graphs", "tools", "quantisation", "runs", "notes", "rows")
SHOWN_DIGITS = 12  # of a model's digest in the list of entries
# Prints name and version of every package that an interpreter sees.
LIST_PACKAGES = (
    "import importlib.metadata as m; "
    "print(sorted({(d.metadata['Name'], d.version) for d in m.distributions()}))"
)


def export_or_recall(
    model: SRModel, out: Path, options: ExportOptions, model_sha256: str, root: Path | None
) -> Exported:
    """As `export_folder.export`, from the cache where the same was exported before.

    Args:
        model: What the file holds.
        out: The folder's final name, which `finish` gives it.
        options: What to export, and how.
        model_sha256: Of the file that the model was read from.
        root: The folder of the cache; None for none.

    Returns:
        What was made. From the cache it has no runner, so its graphs run by run.py alone.

    Raises:
        UserError: As `export`.
    """
    if root is None:
        return export(model, out, options, model_sha256)
    check_options(options)
    check_packages(options)
    entry = root / export_key(options, model_sha256)
    made = _recall(entry, out)
    if made is None:
        made = export(model, out, options, model_sha256)
        if failures(made.rows) is None:
            _keep(entry, made, out, _label(options, model_sha256))
    return made


def export_key(options: ExportOptions, model_sha256: str) -> str:
    """Identity of an export, 32 hex digits.

    Raises:
        UserError: A calibration photograph or the interpreter `python` cannot be read.
    """
    parts = {
        "model": model_sha256,
        "options": options.model_dump(mode="json", exclude={"reference"}),
        "calibration": calibration_hash(options.calibration),
        "sensitivity": files_key([options.sensitivity] if options.sensitivity else []),
        "code": [code_version("compress"), code_version("export")],
        "page": page_digest(options.engine_dir) if options.target == "web" else None,
        "packages": _packages(),
        "packages of python": None if options.python is None else _packages_of(options.python),
        "machine": [
            platform.python_version(),
            platform.platform(),
            processor(),
            torch.backends.cpu.get_cpu_capability(),
        ],
    }
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


@cache
def _packages() -> str:
    """Name and version of every installed package."""
    return str(sorted({(found.metadata["Name"], found.version) for found in distributions()}))


@cache
def _packages_of(python: str) -> str:
    """As `_packages`, of another interpreter."""
    try:
        done = subprocess.run([python, "-c", LIST_PACKAGES], capture_output=True, text=True)
    except OSError as error:
        raise UserError(
            f"python '{python}': cannot be started ({error.strerror}); give an interpreter"
        ) from None
    return done.stdout


def _label(options: ExportOptions, model_sha256: str) -> str:
    """What an entry holds, for `list`."""
    height, width = options.lr_size
    return f"export {options.folder} {height}x{width}: model {model_sha256[:SHOWN_DIGITS]}"


def _recall(entry: Path, out: Path) -> Exported | None:
    """The export in `entry`, unpacked under the temporary name of `out`; None if there is none."""
    if not entry.exists():
        return None
    trouble = cache_entry.problem(entry, cache_entry.EXPORT)
    if trouble is not None:
        _LOG.warning("cache: %s is damaged (%s); it is exported again", entry, trouble)
        return None
    try:
        fields = read_json(entry / cache_entry.MADE, "what a cache entry says of an export")
        partial = folders.begin(out, marks.EXPORT)
        with writing(partial), tarfile.open(entry / cache_entry.ARCHIVE) as archive:
            archive.extractall(partial, filter="data")
    except (FileNotFoundError, UserError):
        if entry.is_dir():
            raise
        return None  # pruned by another process
    cache_entry.touch(entry)
    _LOG.info("export from the cache (%s)", entry.name)
    return Exported(**{**fields, "tools": tuple(fields["tools"])})


def _keep(entry: Path, made: Exported, out: Path, label: str) -> None:
    """Store what `export` wrote under the temporary name of `out`.

    A disk that is full or a cache that cannot be written is told, and the export is as good.
    """
    partial = folders.partial_of(out)
    try:
        with cache_folders.building(entry) as folder:
            with tarfile.open(folder / cache_entry.ARCHIVE, "w") as archive:
                for path in sorted(partial.iterdir()):
                    if path.name != marks.MARK_FILE:
                        archive.add(path, path.name)
            text = json.dumps({name: getattr(made, name) for name in KEPT})
            (folder / cache_entry.MADE).write_text(text, encoding="utf-8")
            cache_entry.seal(folder, label, cache_entry.EXPORT)
    except OSError as error:
        reason = error.strerror or error
        _LOG.warning("cache %s: the export is not kept here (%s)", entry.parent, reason)
