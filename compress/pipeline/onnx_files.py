"""The ONNX files of a run: whether they can stand in for its model.

They are taken where they were verified against torch when they were exported, and are still those
files, and where they were exported from the model.safetensors that the run holds now.
"""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.core.identity import file_digest
from compress.recipe.checkpoint import MODEL_FILE
from export.targets.host.chain import WHOLE, parts
from export.targets.host.folder import FolderError, read, sha256

FOLDER = "onnx"  # of a run, from `export: [{target: onnx}]`


class UnusableError(Exception):
    """Why the ONNX files of a run cannot be taken, as the second half of a sentence."""


@dataclass(frozen=True)
class VerifiedFiles:
    """The ONNX files of a run that compute what its model computes.

    Attributes:
        folder: Where they lie.
        manifest: What manifest.json says of them.
        graphs: The graphs to run, in their order: all parts, or "model" alone.
        least_db: The smallest PSNR to torch that was measured when they were exported, in dB.
    """

    folder: Path
    manifest: dict[str, Any]
    graphs: list[str]
    least_db: float


def why_not(run: Path) -> str | None:
    """Why the ONNX files of `run` cannot be taken, as the second half of a sentence, or None."""
    try:
        find_verified_files(run)
    except UnusableError as reason:
        return str(reason)
    return None


def find_verified_files(run: Path) -> VerifiedFiles:
    """The ONNX files of the run directory `run`.

    Raises:
        UnusableError: There are none, or they cannot be taken.
    """
    folder = run / FOLDER
    _check_there(run, folder)
    manifest = _read_manifest(folder)
    _check_origin(run, folder, manifest)
    least_db = _least_parity(folder / "parity.json")
    graphs = _graphs_of(manifest)
    if not graphs:
        raise UnusableError(f"{folder} holds no whole model; export it again without --component")
    changed = _changed_file(folder, manifest["files"], graphs)
    if changed is not None:
        raise UnusableError(
            f"{changed} is missing or is not the file that was exported; export it again"
        )
    if importlib.util.find_spec("onnxruntime") is None:
        raise UnusableError(
            "the package onnxruntime is not installed; run: pip install onnxruntime"
        )
    return VerifiedFiles(folder, manifest, graphs, least_db)


def _check_there(run: Path, folder: Path) -> None:
    if not run.is_dir():
        raise UnusableError(f"{run} is a weight file, and ONNX files lie in a run directory")
    if not folder.is_dir():
        raise UnusableError(
            f"{run} holds no exported {FOLDER}/; python -m export.run {run} --target onnx makes it"
        )
    if (folder / "FAILED.txt").exists():
        raise UnusableError(
            f"the files in {folder} failed their comparison with torch (FAILED.txt)"
        )


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export for onnxruntime, with all that tiles.py takes from it."""
    try:
        manifest = read(folder)
    except FolderError:
        manifest = {"target": None}
    if manifest["target"] != FOLDER:
        raise UnusableError(
            f"{folder / 'manifest.json'} is missing, damaged or of another target; export it again"
        )
    return manifest


def _check_origin(run: Path, folder: Path, manifest: dict[str, Any]) -> None:
    weights = run / MODEL_FILE
    if not weights.is_file():
        raise UnusableError(f"{run} holds no {MODEL_FILE}, which {folder} was exported from")
    if manifest.get("model_sha256") != file_digest(weights):
        raise UnusableError(
            f"{folder} was not exported from the {MODEL_FILE} that {run} holds now; export it again"
        )


def _least_parity(file: Path) -> float:
    """The smallest PSNR in dB of the rows in parity.json, all of which must have passed."""
    refusal = UnusableError(
        f"{file} does not say that the files agree with torch; export them again"
    )
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise refusal from None
    if not isinstance(rows, list) or not rows:
        raise refusal
    values = []
    for row in rows:
        if not isinstance(row, dict) or row.get("passed") is not True:
            raise refusal
        value = row.get("psnr_db")
        if not isinstance(value, (int, float)):
            raise refusal
        values.append(value)
    return min(values)


def _graphs_of(manifest: dict[str, Any]) -> list[str]:
    """The graphs to run: all parts, else the whole model; empty where there is neither."""
    whole = [WHOLE] if WHOLE in manifest["graphs"] else []
    return parts(manifest) or whole


def _changed_file(folder: Path, files: dict[str, Any], graphs: list[str]) -> Path | None:
    """The first file of these graphs, or of data beside them, that is not the manifest's."""
    stems = tuple(f"{name}." for name in graphs)
    names = {f"{stem}onnx" for stem in stems}
    names |= {name for name in files if name.startswith(stems)}
    for name in names:
        entry = files.get(name)
        path = folder / name
        if not isinstance(entry, dict) or not path.is_file():
            return path
        if sha256(path) != entry.get("sha256"):
            return path
    return None
