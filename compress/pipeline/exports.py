"""The exported files of a run: what its recipe asks for, checked early and made late."""

import json
import os
from dataclasses import replace
from pathlib import Path

from compress.core.errors import UserError
from compress.core.files import write_text
from compress.core.identity import file_digest
from compress.data.calibration import calibration_images
from compress.model.sr_model import SRModel
from compress.recipe.checkpoint import MODEL_FILE, convert_all
from compress.recipe.recipe import Export, Recipe
from compress.recipe.run_files import read_figures, read_manifest
from export import latency, targets
from export.graphs.export_onnx import check_low_bits, export_onnx
from export.parity import verify
from export.rewrite import names_for
from export.targets.parts import choose_parts, float_model
from export.targets.to_qnn import choose_chip

SPEED_REPEATS = 10  # runs of each file, of which the median counts


def export_options(spec: Export) -> targets.Options:
    """An entry of a recipe's `export` as the options of python -m export.run."""
    options = targets.Options(
        lr_size=spec.lr_size,
        components=spec.components,
        dtype=spec.dtype,
        dynamic=spec.dynamic,
        low_bits=spec.low_bits,
        rewrite=spec.rewrite,
    )
    if spec.chip:
        options = replace(options, chip=spec.chip)
    return options


def check_exports(recipe: Recipe, packages: bool = True) -> None:
    """What `export` of a recipe asks for, against its model's structure; no weight is read.

    Args:
        recipe: Of any source and passes.
        packages: Also look for what each target needs on this machine.

    Raises:
        UserError: A target, dtype, component, chip, rewrite or size that cannot be, or a package
            that is missing; with the entry's place in the recipe.
    """
    if not recipe.export:
        return
    model = convert_all(recipe.source, recipe.passes)
    for index, spec in enumerate(recipe.export):
        try:
            _check_export(model, spec)
            if packages:
                targets.check_packages(spec.target)
        except UserError as error:
            raise UserError(f"export.{index}: {error}") from None


def _check_export(model: SRModel, spec: Export) -> None:
    options = export_options(spec)
    targets.check_options(spec.target, options)
    if spec.chip is not None:
        if spec.target != "qnn":
            raise UserError(f"chip is an option of target qnn; leave it out for {spec.target}")
        choose_chip(spec.chip)
    if spec.rewrite is not None:
        names_for(spec.rewrite)
    parts = choose_parts(model, spec.target, targets.choose_target(spec.target), options)
    check_low_bits(model, spec.low_bits)
    if spec.target != "onnx":
        float_model(parts)
    if spec.target != "onnx" or set(parts.stems) != {"model"}:
        # The calibration photographs must be large enough.
        calibration_images(options.calibration, 1, max(spec.lr_size), options.seed)


def export_all(recipe: Recipe, source: SRModel, model: SRModel, run: Path) -> dict[str, list]:
    """Make every target of the recipe that is not there yet.

    Each is compared with torch. A target that does not agree stays, with the reason in its
    FAILED.txt: the run's other results are not lost for it. For ONNX, where a float reference is
    wanted, the speed of both is measured.

    Args:
        recipe: Of the run.
        source: The uncompressed model.
        model: The compressed model, as `run` holds it.
        run: The run directory.

    Returns:
        Rows of "parity" and "latency", and [name, bytes] of "files", of all targets.
    """
    collected: dict[str, list] = {"parity": [], "latency": [], "files": []}
    for spec in recipe.export:
        file = run / spec.folder / "figures.json"
        if not file.is_file():
            print(f"export: {spec.target}")
            write_text(file, json.dumps(_export_one(recipe, spec, source, model, run)))
        figures = read_figures(file)
        for kind, rows in collected.items():
            rows += figures[kind]
    return collected


def _export_one(
    recipe: Recipe, spec: Export, source: SRModel, model: SRModel, run: Path
) -> dict[str, list]:
    """Export one target; returns its figures."""
    folder = run / spec.folder
    options = replace(export_options(spec), model_sha256=file_digest(run / MODEL_FILE))
    made = targets.export(model, spec.target, folder, options)
    targets.finish(folder, verify.failures(made.rows), keep=True)
    for note in made.notes:
        print(note)
    speed: list[dict] = []
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


def _measure_speed(name: str, spec: Export, source: SRModel, folder: Path) -> list[dict]:
    """Rows of latency of the source in float32 and of the exported model called `name`."""
    reference = folder / "source_fp32"
    export_onnx(source, reference, lr_size=spec.lr_size, dynamic=spec.dynamic, per_component=False)
    files = {"source fp32": reference / "model.onnx", name: folder / "model.onnx"}
    return latency.compare(
        files,
        threads=os.cpu_count() or 1,
        repeats=SPEED_REPEATS,
        side=max(spec.lr_size),
    )
