"""The tiny model exported for onnxruntime: made once, for all tests that only read it."""

import hashlib
from pathlib import Path

import pytest
from support.shared_files import made_once
from support.tiny_model import tiny

from compress.recipe.export_options import ExportOptions
from export.parity.rows import failures
from export.targets.export_folder import export, finish

OPTIONS = ExportOptions(target="onnx", lr_size=(32, 32), images=2, threads=1)
WEIGHTS = b"the weights"  # stand for the file that it was exported from


def tiny_export(factory: pytest.TempPathFactory) -> Path:
    """A copy of the folder, for this process."""
    return made_once(factory, "tiny_export", _export) / "onnx"


def _export(folder: Path) -> None:
    out = folder / "onnx"
    made = export(tiny(), out, OPTIONS, hashlib.sha256(WEIGHTS).hexdigest())
    assert failures(made.rows) is None
    assert not out.exists(), "nothing may stand under the final name before it is checked"
    assert finish(out, None) == out
