"""Exports that several test files read: made by one process of a test run, recalled by the rest."""

import hashlib
from pathlib import Path

import pytest
from filelock import FileLock
from support.shared_files import folder_of_run

from compress.model.sr_model import SRModel
from compress.recipe.export_options import ExportOptions
from export.parity.rows import failures
from export.targets.contract import Exported
from export.targets.export_cache import export_or_recall
from export.targets.export_folder import finish


def exported_once(
    factory: pytest.TempPathFactory, name: str, model: SRModel, out: Path, options: ExportOptions
) -> Exported:
    """What an export says of itself; its folder is `out`.

    Args:
        factory: Of the process.
        name: Of the model, one for each content. Its bytes stand for the file of the model.
        model: What is exported where no other process has done so.
        out: The folder's final name.
        options: What to export, and how.
    """
    root = folder_of_run(factory) / "exports"
    root.mkdir(exist_ok=True)
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    with FileLock(f"{root}.{name}.lock"):
        made = export_or_recall(model, out, options, sha256, root)
    assert failures(made.rows) is None, made.rows
    finish(out, None)
    return made
