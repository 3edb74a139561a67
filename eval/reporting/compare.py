"""One page that puts several runs side by side: the chart, quality, cost, the same crops of all of them, parity."""

from pathlib import Path

from compress.core.errors import UserError
from eval.curve import chart_data
from eval.metric.metrics import METRICS
from eval.report import COSTS, environment, spread
from eval.reporting import pages, pictures, points
from eval.reporting.notes import notes
from eval.reporting.pictures import Crop
from eval.reporting.rundir import Evaluation, Run, Scores


def write_comparison(runs: list[Run], path: Path, dataset: str | None = None) -> Path:
    """Write the comparison of `runs` on one data set under `path`.

    Raises UserError where they share no data set or were evaluated under different protocols.
    """
    labels = _labels(runs)
    board = points.gather([run.path for run in runs], dataset)
    chosen = {
        label: next(e for e in run.evaluations if e.data.lower() == board.dataset.lower())
        for label, run in zip(labels, runs, strict=True)
    }
    first = next(iter(chosen.values()))
    scores: dict[str, Scores] = (
        {"source": first.scores["source"]} if _one_source(runs, chosen) else {}
    )
    scores |= {label: e.scores["compressed"] for label, e in chosen.items()}
    averages = {"source": first.averages["source"]} if "source" in scores else {}
    averages |= {label: e.averages["compressed"] for label, e in chosen.items()}
    names = [m for m in METRICS if any(m in a for a in averages.values())]
    crops = _crops(runs, chosen, scores, board.dataset)
    metric = pictures.sorting_metric(next(iter(reversed(scores.values()))))
    second = list(scores)[-1]
    page = (
        environment()
        .get_template("compare.html.j2")
        .render(
            title="Compressed models, compared",
            runs=runs,
            dataset=board.dataset,
            protocol=board.protocol,
            chart_data=chart_data(board, metric, "size")
            if metric and all("size" in s.x for s in board.systems if s.ours)
            else None,
            metrics={label: {m: a.get(m) for m in names} for label, a in averages.items()},
            blanks=_blanks(averages),
            notes=_notes(runs, labels),
            costs=[
                {
                    "run": "source" if "source" in scores else f"source of {labels[0]}",
                    **{k: runs[0].ledger["cost"]["before"].get(k) for k in COSTS},
                }
            ]
            + [
                {
                    "run": label,
                    **{k: run.ledger["cost"]["after"].get(k) for k in (*COSTS, "file_bytes")},
                }
                for label, run in zip(labels, runs, strict=True)
            ],
            crops=crops,
            first="source" if "source" in scores else labels[0],
            second=second,
            metric=metric,
            spread=spread(scores),
            exported=[
                {"run": label, **row}
                for label, run in zip(labels, runs, strict=True)
                for row in run.exported["latency"]
            ],
            passes=[
                {
                    "run": label,
                    "pass": entry["pass"]["pass"],
                    "config": {k: v for k, v in entry["pass"].items() if k != "pass"},
                    "seconds": entry["seconds"],
                }
                for label, run in zip(labels, runs, strict=True)
                for entry in run.ledger["passes"]
            ],
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


def _blanks(averages: dict[str, dict]) -> dict[str, str]:
    """Metric -> why it has no value; with the models' names where others have one, or another reason."""
    found = {}
    for metric in dict.fromkeys(m for a in averages.values() for m in a["blank"]):
        reasons = {
            label: a["blank"][metric] for label, a in averages.items() if metric in a["blank"]
        }
        alike = len(reasons) == len(averages) and len(set(reasons.values())) == 1
        found[metric] = (
            next(iter(reasons.values()))
            if alike
            else "; ".join(f"{label}: {why}" for label, why in reasons.items())
        )
    return found


def _notes(runs: list[Run], labels: list[str]) -> list[str]:
    """What a reader must know of each run's figures, with the names of the runs that it holds for."""
    found: dict[str, list[str]] = {}
    for label, run in zip(labels, runs, strict=True):
        for note in notes(run.recipe):
            found.setdefault(note, []).append(label)
    return [f"{', '.join(named)}: {note}" for note, named in found.items()]


def _one_source(runs: list[Run], chosen: dict[str, Evaluation]) -> bool:
    """Whether all runs began from the same source, so that its figures stand once for all."""
    sources = {repr(run.recipe["source"]) for run in runs}
    return len(sources) == 1 and all("source" in e.scores for e in chosen.values())


def _crops(
    runs: list[Run], chosen: dict[str, Evaluation], scores: dict[str, Scores], dataset: str
) -> list[Crop]:
    """The same place of every run's image, for images that all runs have."""
    restored = {label: e.restored("compressed") for label, e in chosen.items()}
    if "source" in scores:
        restored = {"source": next(iter(chosen.values())).restored("source"), **restored}
    shared = set.intersection(*(set(rows) for rows in scores.values()))
    order = [
        name
        for name in pictures.worst_first(next(iter(reversed(scores.values()))))
        if name in shared
    ]
    data = next(
        (found for run in runs if (found := pictures.data_of(run.recipe, dataset)) is not None),
        None,
    )
    return pictures.crops(order, restored, scores, data)
