"""The exported files of a run: what its recipe asks for."""

import json
import logging
import os
from pathlib import Path

from compress.core.files import write_text
from compress.core.identity import file_digest
from compress.model.sr_model import SRModel
from compress.recipe.checkpoint import MODEL_FILE
from compress.recipe.export_options import ExportOptions
from compress.recipe.recipe import Recipe
from compress.recipe.run_files import read_figures, read_manifest
from export.graphs.export_onnx import export_onnx
from export.parity.rows import failures
from export.targets.export_cache import export_or_recall
from export.targets.export_folder import FAILED_FILE, finish
from export.timing.files import compare
from export.timing.rows import Row

_LOG = logging.getLogger(__name__)

SPEED_REPEATS = 10  # runs of each file, of which the median counts


def export_all(
    recipe: Recipe, source: SRModel, model: SRModel, run: Path, cache: Path | None
) -> dict[str, list]:
    """Make every target of the recipe that is not there yet.

    Each is compared with torch. A target that does not agree stays, with the reason in its
    FAILED.txt: the run's other results are not lost for it. For ONNX, where a float reference is
    wanted, the speed of both is measured.

    Args:
        recipe: Of the run.
        source: The uncompressed model.
        model: The compressed model, as `run` holds it.
        run: The run directory.
        cache: The folder of the cache, for what was exported before; None for none.

    Returns:
        Rows of "parity" and "latency", and [name, bytes] of "files", of all targets.
    """
    collected: dict[str, list] = {"parity": [], "latency": [], "files": []}
    for spec in recipe.export:
        file = run / spec.folder / "figures.json"
        if not file.is_file():
            _LOG.info("export: %s", spec.target)
            write_text(file, json.dumps(_export_one(recipe, spec, source, model, run, cache)))
        figures = read_figures(file)
        for kind, rows in collected.items():
            rows += figures[kind]
    return collected


def failed_exports(recipe: Recipe, run: Path) -> str | None:
    """One sentence about the targets of a run that do not agree with torch, or None.

    Args:
        recipe: Of the run.
        run: The run directory, finished, whenever its targets were exported.
    """
    problems = []
    for spec in recipe.export:
        folder = run / spec.folder
        file = folder / FAILED_FILE
        if file.is_file():
            reason = file.read_text(encoding="utf-8", errors="replace").strip()
            problems.append(f"{reason}; the files are in {folder}")
    return "; ".join(problems) or None


def _export_one(
    recipe: Recipe,
    spec: ExportOptions,
    source: SRModel,
    model: SRModel,
    run: Path,
    cache: Path | None,
) -> dict[str, list]:
    """Export one target; returns its figures."""
    folder = run / spec.folder
    made = export_or_recall(model, folder, spec, file_digest(run / MODEL_FILE), cache)
    finish(folder, failures(made.rows), keep=True)
    for note in made.notes:
        _LOG.info(note)
    speed: list[Row] = []
    if spec.reference and spec.target == "onnx" and "model" in made.graphs:
        speed = _measure_speed(recipe.name, spec, source, folder)
    return {"parity": made.rows, "latency": speed, "files": _list_files(folder, run)}


def _list_files(folder: Path, run: Path) -> list[list]:
    """[name in the run, bytes] of what was exported, programs left out."""
    files = []
    for name, entry in read_manifest(folder)["files"].items():
        if not name.endswith(".py"):
            files.append([str((folder / name).relative_to(run)), entry["bytes"]])
    return files


def _measure_speed(name: str, spec: ExportOptions, source: SRModel, folder: Path) -> list[Row]:
    """Rows of latency of the source in float32 and of the exported model called `name`."""
    reference = folder / "source_fp32"
    export_onnx(source, reference, lr_size=spec.lr_size, dynamic=spec.dynamic, per_component=False)
    files = {"source fp32": reference / "model.onnx", name: folder / "model.onnx"}
    return compare(
        files,
        threads=os.cpu_count() or 1,
        repeats=SPEED_REPEATS,
        side=max(spec.lr_size),
    )
