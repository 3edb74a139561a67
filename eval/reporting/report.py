"""report.html of a run: one page with everything inside it.

It has pictures with a slider, worst first; every image's scores; cost, parity and ledger.
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from compress.recipe import profiles
from eval.metric.names import in_order
from eval.reporting import pages, pictures, rundir
from eval.reporting.axes import costs
from eval.reporting.blocks import environment
from eval.reporting.board import System, gather
from eval.reporting.cells import COSTS, Row, cell, heading
from eval.reporting.chart import chart_data
from eval.reporting.learning import Work, learned
from eval.reporting.notes import notes, plural
from eval.reporting.pictures import HIGH, LOW, Crop
from eval.reporting.referred import Referred, referred
from eval.reporting.rundir import Evaluation, Run, Scores
from eval.reporting.spread import spread

TILES = ("param_equivalents", "bytes", "macs_paper", "macs_equivalent")
LABELS = ("after", "model", "name")  # columns of a row of costs that say whose they are


@dataclass
class ReportData:
    """What a report shows.

    Tables are lists of rows, {column: value}; columns stand in the order of appearance.

    Attributes:
        name: The run.
        recipe_yaml: Its recipe, as text.
        cost_rows: The source model first, then a row a pass: totals of compress.cost.count, and a
            name.
        components: A row a component, with the same keys.
        dataset: The data set of the quality.
        protocol: Its protocol.
        metrics: Model -> metric -> mean or None.
        blanks: Metric -> why it has no value.
        scores: Model -> image -> metric -> value, the compressed model last.
        parity: Rows with `file`, `probe` and `psnr_db`, of an exported file against the compressed
            model; None is an output that is not finite.
        latency: Rows of export.latency, measured.
        devices: What phones measured, a row a graph.
        whole: A typical image, whole, before and after; None where its files are not there.
        crops: The worst images.
        chart: What chart_data gives.
        ledger: A row a pass.
        predicted: Latency on phones, lines of text.
        notes: Sentences that a reader must know.
        fidelity_db: PSNR of the compressed model's images against the source's.
        learned: Losses, rates and samples of the passes that learn.
        referred: What the worst images were restored with, of a model with references.
    """

    name: str
    recipe_yaml: str
    cost_rows: list[Row] = field(default_factory=list)
    components: list[Row] = field(default_factory=list)
    dataset: str = ""
    protocol: str = ""
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    blanks: dict[str, str] = field(default_factory=dict)
    scores: dict[str, Scores] = field(default_factory=dict)
    parity: list[Row] = field(default_factory=list)
    latency: list[Row] = field(default_factory=list)
    devices: list[Row] = field(default_factory=list)
    whole: Crop | None = None
    crops: list[Crop] = field(default_factory=list)
    chart: dict[str, Any] | None = None
    ledger: list[Row] = field(default_factory=list)
    predicted: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    fidelity_db: float | None = None
    learned: list[Work] = field(default_factory=list)
    referred: list[Referred] = field(default_factory=list)


def collect(run: Run, predicted: list[str] | None = None) -> ReportData:
    """What a run directory holds of ReportData.

    Quality is that of its first data set, in the recipe's order.

    Args:
        run: The run.
        predicted: Lines of predicted latency; left out, they are computed from the model file.
    """
    figures = ReportData(
        run.name,
        run.recipe_yaml,
        [_shown(row) for row in run.costs()],
        [_shown(row) for row in run.components()],
        parity=run.exported["parity"],
        latency=run.exported["latency"],
        devices=_on_devices(run),
        ledger=[_without_costs(entry) for entry in run.ledger["passes"]],
        notes=notes(run.recipe),
        predicted=rundir.predicted(run) if predicted is None else predicted,
        learned=learned(run.path, run.ledger),
    )
    if not run.evaluations:
        figures.notes.append("not evaluated: python -m eval.run RUN --data …")
        return figures
    return _with_quality(figures, run, _first_evaluation(run))


def _on_devices(run: Run) -> list[Row]:
    """What phones measured of the run's exported folders."""
    return [
        {
            "graph": row.part,
            "device": f"{row.device}, {row.os}" if row.os else row.device,
            "by": row.way,
            "calls a tile": row.calls,
            "ms a call": row.ms,
            "peak MB": row.peak_mb,
            "nodes on": ", ".join(f"{unit} {n}" for unit, n in sorted(row.units.items())),
            "measured": row.date,
        }
        for profile in profiles.of_run(run.path)
        for row in profile.rows
        if row.state == profiles.MEASURED
    ]


def _with_quality(figures: ReportData, run: Run, one: Evaluation) -> ReportData:
    """`figures` with what was measured on one data set."""
    compressed = one.averages["compressed"]
    names = in_order(compressed)
    metrics = {
        model: {metric: averages.get(metric) for metric in names}
        for model, averages in one.averages.items()
    }
    left_out = compressed.get("problems", {})
    said = compressed.get("notes", [])
    names_by_quality = pictures.worst_first(one.scores["compressed"])
    restored = {model: one.restored(model) for model in one.scores}
    data = pictures.data_of(run.recipe, one.data)
    return replace(
        figures,
        dataset=one.data,
        protocol=one.protocol,
        scores=one.scores,
        metrics=metrics,
        blanks=compressed["blank"],
        notes=[
            *figures.notes,
            *said,
            *(f"left out: {name}: {why}" for name, why in left_out.items()),
        ],
        fidelity_db=float(np.mean(list(one.fidelity.values()))) if one.fidelity else None,
        whole=pictures.whole(names_by_quality, restored, one.scores, data),
        crops=pictures.crops(names_by_quality, restored, one.scores, data),
        chart=_chart(run, one),
        referred=referred(names_by_quality, one.folder),
    )


def _first_evaluation(run: Run) -> Evaluation:
    """The evaluation on the data set that the recipe names first."""
    wanted = []
    for entry in run.recipe["eval"]["data"]:
        name = entry["name"] if isinstance(entry, dict) else entry
        wanted.append(str(name).lower())

    def rank(one: Evaluation) -> int:
        name = one.data.lower()
        if name in wanted:
            return wanted.index(name)
        return len(wanted)

    return min(run.evaluations, key=rank)


def _chart(run: Run, one: Evaluation) -> dict[str, Any] | None:
    """Quality against size: this run, its source, and the published systems beside it."""
    board = gather([run.path], one.data)
    ours, *others = board.systems
    measured = [metric for metric in pictures.ORDER if metric in ours.y]
    if not measured or "size" not in ours.x:
        return None
    # A metric that others have, too, says more.
    shared = [metric for metric in measured if any(metric in system.y for system in others)]
    systems = [replace(ours, label=run.name)]
    if "source" in one.averages:
        systems.append(_source(run, one.averages["source"]))
    return chart_data(replace(board, systems=[*systems, *others]), (shared or measured)[0], "size")


def _source(run: Run, averages: dict[str, Any]) -> System:
    y = {metric: averages[metric] for metric in in_order(averages) if averages[metric] is not None}
    return System("source", True, costs(run.ledger["cost"]["before"]), y, "before the passes")


def _shown(row: Row) -> Row:
    return {key: value for key, value in row.items() if key in (*LABELS, *COSTS)}


def _without_costs(entry: Row) -> Row:
    return {key: value for key, value in entry.items() if key not in ("before", "after")}


def write_report(run_dir: Path, figures: ReportData) -> Path:
    """Write report.html, whole or not at all.

    Args:
        run_dir: Where to write it.
        figures: What it shows.

    Returns:
        The file's path.
    """
    labels = figures.crops[0].versions if figures.crops else {}
    first = next((label for label in ("source", LOW, HIGH) if label in labels), None)
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            title=figures.name,
            data=figures,
            tiles=tiles(figures),
            spread=spread(figures.scores),
            first=first,
            second="compressed",
            metric=pictures.sorting_metric(figures.scores.get("compressed", {})),
            original=HIGH,
        )
    )
    return pages.write(page, Path(run_dir) / "report.html")


def tiles(figures: ReportData) -> list[dict[str, str]]:
    """The headline figures, as far as their numbers are there: title, value and detail of each."""
    found = _cost_tiles(figures.cost_rows)
    if figures.fidelity_db is not None:
        found.append(
            {
                "title": "PSNR against the source model",
                "value": f"{figures.fidelity_db:.2f} dB",
                "detail": "between the 8-bit images of both",
            }
        )
    found += _speed_tiles(figures.latency)
    compared = [row for row in figures.parity if "psnr_db" in row]
    if compared:
        found.append(_parity_tile(compared))
    return found


def _cost_tiles(rows: list[Row]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    if not rows:
        return found
    before, after = rows[0], rows[-1]
    for key in TILES:
        if before.get(key) and after.get(key):
            ratio = before[key] / after[key]
            found.append(
                {
                    "title": heading(key),
                    "value": cell(after[key], key),
                    "detail": f"{cell(before[key], key)} before, ÷ {ratio:.2f}",
                }
            )
    return found


def _speed_tiles(rows: list[Row]) -> list[dict[str, str]]:
    """How much faster an exported file is than the source in float32, the fastest of them."""
    whole = [row for row in rows if row.keys() >= {"label", "ratio", "threads", "machine"}]
    faster = [row for row in whole if row["label"] != whole[0]["label"]]
    if not faster:
        return []
    best = max(faster, key=lambda row: row["ratio"])
    return [
        {
            "title": "Speed in onnxruntime",
            "value": f"{best['ratio']:.2f} ×",
            "detail": f"that of {whole[0]['label']}, {best['threads']} "
            f"{plural(best['threads'], 'thread')}, {best['machine']}",
        }
    ]


def _parity_tile(rows: list[Row]) -> dict[str, str]:
    def badness(row: Row) -> float:
        if row["psnr_db"] is None:
            return -math.inf
        return row["psnr_db"]

    worst = min(rows, key=badness)
    value = worst["psnr_db"]
    return {
        "title": "Worst parity of an exported file",
        "value": "not finite" if value is None else f"{value:.1f} dB",
        "detail": " · ".join(str(worst[key]) for key in ("file", "probe") if key in worst),
    }
