"""What a finished run makes of its model: exported files, evaluation beside the source, curve, report, card.

Beside run.py the only module of this package that imports `export` and `eval`.
"""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from compress.core.errors import UserError, shown
from compress.core.files import write_text
from compress.core.identity import file_digest
from compress.core.image import read_image
from compress.cost import phones
from compress.cost.count import measure
from compress.data.calibration import calibration_images
from compress.model.sr_model import SRModel
from compress.recipe.cache import code_version
from compress.recipe.checkpoint import MODEL_FILE, convert_all, dump
from compress.recipe.recipe import Export, Recipe
from compress.recipe.run_files import read_averages, read_figures, read_manifest
from eval import curve
from eval.data.dataset import DataSet
from eval.metric.metrics import check_names
from eval.report import collect, write_report
from eval.reporting import points, rundir
from eval.reporting.card import write_card
from eval.reporting.notes import plural
from eval.reporting.pictures import open_entry
from eval.score.benchmark import evaluate, key_of_file
from export import latency, targets
from export.graphs.export_onnx import check_low_bits, export_onnx
from export.parity import verify
from export.rewrite import names_for
from export.targets.parts import choose_parts, float_model
from export.targets.to_qnn import choose_chip

CURVE_METRICS = (
    "musiq",
    "lpips",
    "ssim",
    "psnr",
)  # the first that has a value on all models of a run


def export_options(spec: Export) -> targets.Options:
    return targets.Options(
        lr_size=spec.lr_size,
        components=spec.components,
        dtype=spec.dtype,
        dynamic=spec.dynamic,
        low_bits=spec.low_bits,
        rewrite=spec.rewrite,
        **({"chip": spec.chip} if spec.chip else {}),
    )


def check_exports(recipe: Recipe, packages: bool = True) -> None:
    """What `export` of a recipe asks for, against its model's structure; no weight is read.

    Args:
        recipe: Of any source and passes.
        packages: Also look for what each target needs on this machine.

    Raises:
        UserError: A target, dtype, component, chip, rewrite or size that cannot be, or a package
            that is missing; with the entry's place in the recipe.
    """
    model = convert_all(recipe.source, recipe.passes) if recipe.export else None
    for i, spec in enumerate(recipe.export):
        try:
            _check_export(model, spec)
            if packages:
                targets.check_packages(spec.target)
        except UserError as error:
            raise UserError(f"export.{i}: {error}") from None


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
    if set(parts.stems) != {"model"} or spec.target != "onnx":
        # They must be large enough.
        calibration_images(options.calibration, 1, max(spec.lr_size), options.seed)


def export_all(recipe: Recipe, source: SRModel, model: SRModel, run: Path) -> dict:
    """Every target of the recipe, with parity and, for ONNX where a float reference is wanted, speed beside it.

    A target whose parity fails stays, with the reason in its FAILED.txt: the run's other results are not lost for it.
    """
    found: dict = {"parity": [], "latency": [], "files": []}
    for spec in recipe.export:
        folder = run / spec.folder
        done = folder / "figures.json"
        if not done.is_file():
            print(f"export: {spec.target}")
            options = replace(export_options(spec), model_sha256=file_digest(run / MODEL_FILE))
            made = targets.export(model, spec.target, folder, options)
            targets.finish(folder, verify.failures(made.rows), keep=True)
            print("\n".join(made.notes), end="\n" if made.notes else "")
            written = read_manifest(folder)["files"]
            figures = {
                "parity": made.rows,
                "latency": [],
                "files": [
                    [str((folder / name).relative_to(run)), entry["bytes"]]
                    for name, entry in written.items()
                    if not name.endswith(".py")
                ],
            }
            if spec.reference and spec.target == "onnx" and "model" in made.graphs:
                export_onnx(
                    source,
                    folder / "source_fp32",
                    lr_size=spec.lr_size,
                    dynamic=spec.dynamic,
                    per_component=False,
                )
                pair = {
                    "source fp32": folder / "source_fp32" / "model.onnx",
                    recipe.name: folder / "model.onnx",
                }
                figures["latency"] = latency.compare(
                    pair, threads=os.cpu_count() or 1, repeats=10, side=max(spec.lr_size)
                )
            write_text(done, json.dumps(figures))
        figures = read_figures(done)
        found = {key: found[key] + figures[key] for key in found}
    return found


def evaluate_both(recipe: Recipe, source: SRModel, model: SRModel, run: Path) -> dict[str, dict]:
    """For each data set: averages of source and compressed model, and the PSNR between their 8-bit outputs in dB."""
    results = {}
    # Identities under which a run that was killed finds what it restored and scored before.
    identity = repr((dump(recipe.source), recipe.source.data_key(), code_version()))
    keys = {
        "source": hashlib.sha256(identity.encode()).hexdigest(),
        "compressed": key_of_file(run / MODEL_FILE),
    }
    for opened in open_all(recipe):
        folder = run / "eval" / opened.name
        averages = {}
        for name, candidate, out in (
            ("source", source, folder / "source"),
            ("compressed", model, folder),
        ):
            if not (out / "averages.json").is_file():
                print(f"evaluate: {name} on {opened.name}")
                evaluate(
                    candidate,
                    opened,
                    recipe.eval.metrics,
                    recipe.eval.iqa_weights,
                    out,
                    save=out / "restored",
                    cache=run / "passes" / "scores.sqlite",
                    model_key=keys[name],
                )
            averages[name] = read_averages(out)
        fidelity = {}
        for pair in opened.pairs:
            files = [out / "restored" / f"{pair.name}.png" for out in (folder / "source", folder)]
            if all(
                file.is_file() for file in files
            ):  # an image that could not be read was restored by neither
                a, b = map(read_image, files)
                fidelity[pair.name] = (
                    -10 * torch.log10((a - b).square().mean().clamp(min=1e-10))
                ).item()
        write_text(folder / "fidelity.json", json.dumps(fidelity))
        mean = float(np.mean(list(fidelity.values()))) if fidelity else None
        results[opened.name] = {**averages, "fidelity_db": mean}
    return results


def open_all(recipe: Recipe) -> list[DataSet]:
    """The recipe's data sets.

    Raises:
        UserError: A misspelt metric, no folder `iqa_weights`, missing data or data of another kind,
            or two data sets whose results would have one folder.
    """
    check_names(recipe.eval.metrics)
    weights = recipe.eval.iqa_weights
    if weights is not None and not Path(weights).is_dir():
        raise UserError(
            f"eval.iqa_weights {shown(weights)}: no such folder; give the folder that "
            "holds the metrics' "
            "weights, or leave it out"
        )
    found: dict[str, DataSet] = {}
    for i, entry in enumerate(recipe.eval.data):
        try:
            named = entry if isinstance(entry, str) else entry.model_dump()
            opened = open_entry(named, recipe.eval.limit)
        except UserError as error:
            raise UserError(f"eval.data.{i}: {error}") from None
        if opened.name in found:
            raise UserError(
                f"eval.data.{i}: the results of two data sets would lie in "
                f"eval/{opened.name}; rename one "
                "of their folders, or evaluate it by python -m eval.run RUN --data … "
                "--name …"
            )
        found[opened.name] = opened
    return list(found.values())


def draw_curve(recipe: Recipe, record: dict, results: dict, run: Path) -> tuple[Path | None, str]:
    """curve.png (.svg) of the first data set in the first metric of CURVE_METRICS that was measured, and which."""
    for data, result in results.items():
        for metric in CURVE_METRICS:
            source = result["source"].get(metric)
            if source is None or result["compressed"].get(metric) is None:
                continue
            selection = points.select([run], metric, data)
            size = record["cost"]["before"]["param_equivalents"] / 1e6
            own = [
                replace(selection.points[0], label=recipe.name),
                points.Point("source", size, source, True),
            ]
            selection = replace(selection, points=own + selection.points[1:])
            png, _ = curve.draw(selection, run / "curve.png")
            return png, f"curve: {metric} on {data}"
    return None, f"no curve: none of {', '.join(CURVE_METRICS)} has a value for both models"


def pairs_of(rows: list[dict]) -> list[tuple[dict, dict]]:
    """(reference, row) of the latency rows of all targets: a target's first row is what its others are measured
    against, and has the label of the source."""
    found, reference = [], None
    for row in rows:
        if reference is None or row["label"] == reference["label"]:
            reference = row
        else:
            found.append((reference, row))
    return found


def summary(recipe: Recipe, record: dict, exported: dict, results: dict) -> list[str]:
    """The run in a few lines of text."""
    before, after = record["cost"]["before"], record["cost"]["after"]
    height, width = before["lr_size"]
    lines = [
        f"{recipe.name}",
        f"  weights  {before['bytes'] / 1e6:9.2f} MB -> {after['bytes'] / 1e6:.2f} MB "
        f"({after['bytes'] / before['bytes']:.3f}), packed at their own width; {MODEL_FILE} has "
        f"{after['file_bytes'] / 1e6:.2f} MB",
        f"  params   {before['params'] / 1e6:9.2f} M  -> {after['param_equivalents'] / 1e6:.2f} M fp32-equivalent",
        f"  MACs     {before['macs_paper'] / 1e9:9.2f} G  -> {after['macs_equivalent'] / 1e9:.2f} G "
        f"fp32-equivalent (paper count, LR {width}x{height}), counted and no speed",
    ]
    for reference, row in pairs_of(exported["latency"]):
        threads = f"{row['threads']} {plural(row['threads'], 'thread')}"
        lines.append(
            f"  ONNX     {row['size_ratio']:.3f} x the bytes and {row['ratio']:.2f} x the speed of "
            f"{reference['label']}, measured: {threads}, {row['machine']}"
        )
    whole = [r for r in exported["parity"] if r["file"] in ("model.onnx", "end to end")]
    if whole:
        shown = ", ".join(
            f"{r['probe']} {'not finite' if r['psnr_db'] is None else format(r['psnr_db'], '.1f')}"
            for r in whole
        )
        lines.append(f"  parity   torch against the runtime, end to end, dB: {shown}")
    problem = verify.failures(exported["parity"])
    if problem:
        lines.append(f"  parity   {problem}")
    for data, result in results.items():
        fidelity = result["fidelity_db"]
        lines.append(
            f"  {data}: "
            + (
                "no image was restored by both models"
                if fidelity is None
                else f"compressed against source {fidelity:.2f} dB PSNR"
            )
        )
        for metric in recipe.eval.metrics:
            pair = [result[k].get(metric) for k in ("source", "compressed")]
            if None not in pair:
                lines.append(f"    {metric:<14}{pair[0]:10.4f} -> {pair[1]:.4f}")
        for metric, why in result["compressed"]["blank"].items():
            lines.append(f"    {metric:<14}blank: {why}")
        lines += [
            f"    left out: {name}: {why}" for name, why in result["compressed"]["problems"].items()
        ]
    return lines


def write_reports(recipe: Recipe, record: dict, exported: dict, results: dict, run: Path) -> str:
    """curve, report.html and card.md in `run`; returns the terminal summary."""
    png, which = draw_curve(recipe, record, results, run)
    lines = summary(recipe, record, exported, results)
    predicted = phones.as_lines(measure(convert_all(recipe.source, recipe.passes)), recipe.source)
    lines += [f"  {line}" for line in predicted]
    found = rundir.read(run)
    figures = collect(found, predicted)
    figures.notes += [which] if png is None else []
    write_report(run, figures)
    write_card(found, run, lines)
    return "\n".join(lines + [f"  {which}"])
