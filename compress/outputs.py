"""What a finished run makes of its model: exported files, evaluation beside the source, curve, report, card.

Beside run.py the only module of this package that imports `export` and `eval`.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from compress.image import read_image, to_uint8
from compress.model import SRModel, upsample
from compress.recipe import Recipe, to_yaml
from eval import curve, points
from eval.benchmark import evaluate
from eval.dataset import open_data
from eval.report import ReportData, write_report
from export import latency, verify
from export.run import choose_target

CURVE_METRICS = ("musiq", "lpips", "ssim", "psnr")  # the first that has a value on all models of a run
CROP = 144


def export_all(recipe: Recipe, source: SRModel, model: SRModel, run: Path) -> dict:
    """Every target of the recipe, with parity and, where a float reference is wanted, speed beside it."""
    found: dict = {"parity": [], "latency": [], "files": []}
    for spec in recipe.export:
        target, folder = choose_target(spec.target), run / spec.folder
        done = folder / "figures.json"
        if not done.is_file():
            print(f"export: {spec.target}")
            files = target(model, folder, lr_size=spec.lr_size, dynamic=spec.dynamic, low_bits=spec.low_bits)
            figures = {"parity": verify.verify(model, folder, lr_size=spec.lr_size), "latency": [],
                       "files": [[str(f.relative_to(run)), f.stat().st_size] for f in files]}
            if spec.reference:
                target(source, folder / "source_fp32", lr_size=spec.lr_size, dynamic=spec.dynamic, per_component=False)
                pair = {"source fp32": folder / "source_fp32" / "model.onnx", recipe.name: folder / "model.onnx"}
                figures["latency"] = latency.compare(pair, threads=os.cpu_count() or 1, repeats=10,
                                                     side=max(spec.lr_size))
            done.write_text(json.dumps(figures))
        figures = json.loads(done.read_text())
        found = {key: found[key] + figures[key] for key in found}
    return found


def evaluate_both(recipe: Recipe, source: SRModel, model: SRModel, run: Path) -> dict[str, dict]:
    """For each data set: averages of source and compressed model, and the PSNR between their 8-bit outputs in dB."""
    results = {}
    for data in recipe.eval.data:
        opened = open_data(data, limit=recipe.eval.limit)
        folder = run / "eval" / opened.name
        averages = {}
        for name, candidate, out in (("source", source, folder / "source"), ("compressed", model, folder)):
            if not (out / "averages.json").is_file():
                print(f"evaluate: {name} on {opened.name}")
                evaluate(candidate, opened, recipe.eval.metrics, recipe.eval.iqa_weights, out,
                         save=out / "restored")
            averages[name] = json.loads((out / "averages.json").read_text())
        names = [p.name for p in opened.pairs]
        pairs = [[read_image(out / "restored" / f"{n}.png") for out in (folder / "source", folder)] for n in names]
        fidelity = [(-10 * torch.log10((a - b).square().mean().clamp(min=1e-10))).item() for a, b in pairs]
        results[opened.name] = {**averages, "fidelity_db": float(np.mean(fidelity)), "pairs": opened.pairs[:4],
                                "folder": folder}
    return results


def crops(result: dict) -> list[tuple[str, dict[str, np.ndarray]]]:
    """(name, {label: uint8 [144, 144, 3]}) of the middle of a few images."""
    rows = []
    for pair in result["pairs"]:
        images = {"LR (bicubic)": upsample(pair.lr()).clamp(0, 1) if pair.lr else None,
                  "source": read_image(result["folder"] / "source" / "restored" / f"{pair.name}.png"),
                  "compressed": read_image(result["folder"] / "restored" / f"{pair.name}.png"),
                  "original": pair.hr() if pair.hr else None}
        height, width = images["source"].shape[-2:]
        top, left = max(0, (height - CROP) // 2), max(0, (width - CROP) // 2)
        rows.append((pair.name, {k: to_uint8(v[..., top:top + CROP, left:left + CROP])
                                 for k, v in images.items() if v is not None}))
    return rows


def draw_curve(recipe: Recipe, record: dict, results: dict, run: Path) -> tuple[Path | None, str]:
    """curve.png (.svg) of the first data set in the first metric of CURVE_METRICS that was measured, and which."""
    for data, result in results.items():
        for metric in CURVE_METRICS:
            source = result["source"].get(metric)
            if source is None or result["compressed"].get(metric) is None:
                continue
            selection = points.select([run], metric, data)
            size = record["cost"]["before"]["param_equivalents"] / 1e6
            own = [replace(selection.points[0], label=recipe.name), points.Point("source", size, source, True)]
            selection = replace(selection, points=own + selection.points[1:])
            png, _ = curve.draw(selection, run / "curve.png")
            return png, f"curve: {metric} on {data}"
    return None, f"no curve: none of {', '.join(CURVE_METRICS)} has a value"


def summary(recipe: Recipe, record: dict, exported: dict, results: dict) -> list[str]:
    """The run in a few lines of text."""
    before, after = record["cost"]["before"], record["cost"]["after"]
    lines = [f"{recipe.name}",
             f"  size     {before['bytes'] / 1e6:9.2f} MB -> {after['bytes'] / 1e6:.2f} MB "
             f"({after['bytes'] / before['bytes']:.3f})",
             f"  params   {before['params'] / 1e6:9.2f} M  -> {after['param_equivalents'] / 1e6:.2f} M fp32-equivalent",
             f"  MACs     {before['macs_paper'] / 1e9:9.2f} G  -> {after['macs_equivalent'] / 1e9:.2f} G fp32-equivalent "
             f"(paper count, LR 128)"]
    for row in exported["latency"][1:]:
        lines.append(f"  ONNX     {row['size_ratio']:.3f} x the bytes and {row['ratio']:.2f} x the speed of "
                     f"{exported['latency'][0]['label']}, measured: {row['threads']} threads, {row['machine']}")
    whole = [r for r in exported["parity"] if r["file"] == "model.onnx"]
    if whole:
        shown = ", ".join(f"{r['probe']} {'not finite' if r['psnr_db'] is None else format(r['psnr_db'], '.1f')}"
                          for r in whole)
        lines.append(f"  parity   torch against onnxruntime, end to end, dB: {shown}")
    problem = verify.failures(exported["parity"])
    if problem:
        lines.append(f"  parity   {problem}")
    for data, result in results.items():
        lines.append(f"  {data}: compressed against source {result['fidelity_db']:.2f} dB PSNR")
        for metric in recipe.eval.metrics:
            pair = [result[k].get(metric) for k in ("source", "compressed")]
            if None not in pair:
                lines.append(f"    {metric:<14}{pair[0]:10.4f} -> {pair[1]:.4f}")
        for metric, why in result["compressed"]["blank"].items():
            lines.append(f"    {metric:<14}blank: {why}")
    return lines


def notes(recipe: Recipe) -> list[str]:
    """What a reader must know to read the figures."""
    quantised = [p for p in recipe.passes if getattr(p, "activations", None)]
    found = []
    if quantised:
        found.append("Placement: inputs and weights of convolutions and linear layers, and outputs of the convolutions "
                     "that the recipe lists, are quantised; norms, activations, residual sums and attention products are "
                     "floating point. This is not whole-graph quantisation.")
    if any(min(p.weights, p.activations) < 8 and max(p.weights, p.activations) <= 8 for p in quantised):
        found.append("Codes narrower than 8 bits are stored in 8-bit containers with clamps: exported files simulate "
                     "such hardware and are no smaller or faster than 8-bit ones.")
    return found


def write_reports(recipe: Recipe, record: dict, exported: dict, results: dict, run: Path) -> str:
    """curve, report.html and card.md in `run`; returns the terminal summary."""
    png, which = draw_curve(recipe, record, results, run)
    lines = summary(recipe, record, exported, results)
    first = next(iter(results.values()), None)
    costs = [{"after": "source", **record["cost"]["before"]}]
    costs += [{"after": entry["pass"]["pass"], **entry["after"]} for entry in record["passes"]]
    write_report(run, ReportData(
        name=recipe.name, recipe_yaml=to_yaml(recipe), cost_rows=costs,
        components=[{"model": model, **row} for model, key in (("source", "before"), ("compressed", "after"))
                    for row in record["cost"][key]["components"]],
        metrics={} if first is None else {k: {m: first[k].get(m) for m in recipe.eval.metrics}
                                          for k in ("source", "compressed")},
        blanks={} if first is None else first["compressed"]["blank"], parity=exported["parity"],
        latency=exported["latency"], crops=[] if first is None else crops(first), curve_png=png,
        ledger=record["passes"], fidelity_db=None if first is None else first["fidelity_db"], notes=notes(recipe) + ([which] if png is None else [])))
    (run / "card.md").write_text("\n".join(
        [f"# {recipe.name}", "", "```", *lines, "```", "", *notes(recipe), "", "## Recipe", "", "```yaml",
         to_yaml(recipe).rstrip(), "```", ""]))
    return "\n".join(lines + [f"  {which}"])
