"""One page that puts runs side by side: chart, quality, cost, the same crops of all, parity."""

from pathlib import Path
from typing import Any

from compress.core.errors import UserError
from eval.metric.names import in_order
from eval.reporting import pages, pictures
from eval.reporting.blocks import environment
from eval.reporting.board import Board, gather
from eval.reporting.cells import COSTS, Row, chosen
from eval.reporting.chart import chart_data
from eval.reporting.notes import notes
from eval.reporting.pictures import Crop
from eval.reporting.rundir import Evaluation, Run, Scores
from eval.reporting.spread import spread

Labelled = dict[str, tuple[Run, Evaluation]]  # label -> the run, and its evaluation that counts
Averages = dict[str, dict[str, Any]]  # label -> what averages.json holds


def write_comparison(runs: list[Run], path: Path, dataset: str | None = None) -> Path:
    """Write the comparison of `runs` on one data set.

    Args:
        runs: The runs.
        path: The file.
        dataset: May be left out where the runs have exactly one in common.

    Raises:
        UserError: They share no data set, were evaluated under different protocols, or have one
            name.
    """
    labels = _labels(runs)
    board = gather([run.path for run in runs], dataset)
    chosen_runs = {
        label: (run, _evaluation(run, board.dataset))
        for label, run in zip(labels, runs, strict=True)
    }
    scores, averages = _measured(chosen_runs)
    metric = pictures.sorting_metric(scores[labels[-1]])
    has_source = "source" in scores
    page = (
        environment()
        .get_template("compare.html.j2")
        .render(
            title="Compressed models, compared",
            runs=runs,
            dataset=board.dataset,
            protocol=board.protocol,
            chart_data=_chart(board, metric),
            metrics=_metrics(averages),
            blanks=_blanks(averages),
            notes=_notes(chosen_runs),
            costs=_cost_rows(chosen_runs, has_source),
            crops=_crops(chosen_runs, scores, board.dataset),
            first="source" if has_source else labels[0],
            second=labels[-1],
            metric=metric,
            spread=spread(scores),
            exported=_latency_rows(chosen_runs),
            passes=_pass_rows(chosen_runs),
        )
    )
    return pages.write(page, path)


def _labels(runs: list[Run]) -> list[str]:
    labels = [run.path.resolve().name for run in runs]
    again = sorted({label for label in labels if labels.count(label) > 1})
    if again:
        raise UserError(
            f"several runs are called {', '.join(again)}; give directories of different names"
        )
    return labels


def _evaluation(run: Run, dataset: str) -> Evaluation:
    return next(one for one in run.evaluations if one.data.lower() == dataset.lower())


def _measured(runs: Labelled) -> tuple[dict[str, Scores], Averages]:
    """Scores and averages by label, of the source first where all runs have the same."""
    scores: dict[str, Scores] = {}
    averages: Averages = {}
    if _have_one_source(runs):
        first = next(iter(runs.values()))[1]
        scores["source"] = first.scores["source"]
        averages["source"] = first.averages["source"]
    for label, (_, one) in runs.items():
        scores[label] = one.scores["compressed"]
        averages[label] = one.averages["compressed"]
    return scores, averages


def _have_one_source(runs: Labelled) -> bool:
    """Whether all runs began from the same source, so that its figures stand once for all."""
    sources = {repr(run.recipe["source"]) for run, _ in runs.values()}
    return len(sources) == 1 and all("source" in one.scores for _, one in runs.values())


def _chart(board: Board, metric: str | None) -> dict[str, Any] | None:
    """The interactive curve; None where a run has no size or no metric is shared."""
    ours = [system for system in board.systems if system.ours]
    if metric is None or not all("size" in system.x for system in ours):
        return None
    return chart_data(board, metric, "size")


def _metrics(averages: Averages) -> dict[str, dict[str, float | None]]:
    """Label -> metric -> mean, of every metric that anyone has."""
    names = in_order(name for means in averages.values() for name in means)
    return {label: {name: means.get(name) for name in names} for label, means in averages.items()}


def _blanks(averages: Averages) -> dict[str, str]:
    """Metric -> why it has no value; with labels where others have one, or another reason."""
    found: dict[str, dict[str, str]] = {}
    for label, means in averages.items():
        for metric, why in means["blank"].items():
            found.setdefault(metric, {})[label] = why
    return {metric: _reason(reasons, len(averages)) for metric, reasons in found.items()}


def _reason(reasons: dict[str, str], models: int) -> str:
    different = set(reasons.values())
    if len(reasons) == models and len(different) == 1:
        return different.pop()
    return "; ".join(f"{label}: {why}" for label, why in reasons.items())


def _notes(runs: Labelled) -> list[str]:
    """What a reader must know of the figures, with the runs that each sentence holds for."""
    found: dict[str, list[str]] = {}
    for label, (run, _) in runs.items():
        for note in notes(run.recipe):
            found.setdefault(note, []).append(label)
    return [f"{', '.join(labels)}: {note}" for note, labels in found.items()]


def _cost_rows(runs: Labelled, has_source: bool) -> list[Row]:
    label, (first, _) = next(iter(runs.items()))
    source = "source" if has_source else f"source of {label}"
    rows = [{"run": source, **chosen(first.ledger["cost"]["before"], COSTS)}]
    for label, (run, _) in runs.items():
        rows.append({"run": label, **chosen(run.ledger["cost"]["after"], (*COSTS, "file_bytes"))})
    return rows


def _latency_rows(runs: Labelled) -> list[Row]:
    rows = []
    for label, (run, _) in runs.items():
        rows += [{"run": label, **row} for row in run.exported["latency"]]
    return rows


def _pass_rows(runs: Labelled) -> list[Row]:
    rows = []
    for label, (run, _) in runs.items():
        for entry in run.ledger["passes"]:
            config = {key: value for key, value in entry["pass"].items() if key != "pass"}
            rows.append(
                {
                    "run": label,
                    "pass": entry["pass"]["pass"],
                    "config": config,
                    "seconds": entry["seconds"],
                }
            )
    return rows


def _crops(runs: Labelled, scores: dict[str, Scores], dataset: str) -> list[Crop]:
    """The same place of every run's image, for images that all runs have."""
    restored = {}
    if "source" in scores:
        restored["source"] = next(iter(runs.values()))[1].restored("source")
    for label, (_, one) in runs.items():
        restored[label] = one.restored("compressed")
    shared = set.intersection(*(set(rows) for rows in scores.values()))
    last = next(iter(reversed(scores.values())))
    order = [name for name in pictures.worst_first(last) if name in shared]
    for run, _ in runs.values():
        data = pictures.data_of(run.recipe, dataset)
        if data is not None:
            return pictures.crops(order, restored, scores, data)
    return pictures.crops(order, restored, scores, None)
