"""The files of an answer: JSON, CSV, a page, and a recipe for each point of the front."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from compress.core.files import MADE_BY, write_text
from compress.recipe.recipe import to_yaml
from compress.search.answer import Study, describe
from compress.search.goals import COSTS
from compress.search.snapshot import Ended
from eval.metric.names import metric_of
from eval.reporting import pages
from eval.reporting.axes import AXES
from eval.reporting.blocks import environment
from eval.reporting.board import Board, System, published_systems
from eval.reporting.chart import chart_data

Answers = list[dict[str, Any]]  # what `answer` says, one a study


def board_of(studies: list[Study]) -> Board:
    """Every measured point, and the published systems of the same data set and protocol."""
    dataset, protocol = (str(word) for word in (*studies[0].data, "", "")[:2])
    phones = {study.settings.phone for study in studies}
    device = phones.pop() if len(phones) == 1 else None
    systems = [_system(study, point, device) for study in studies for point in study.points]
    return Board(
        dataset, protocol, [*systems, *published_systems(dataset, protocol, device)], device
    )


def _system(study: Study, point: Ended, device: str | None) -> System:
    x = {name: point.figures[name] / AXES[name].divisor for name in AXES if name in COSTS}
    if device is None:
        del x["latency"]
    y = {name: point.figures[name] for name in study.metrics}
    is_best = point.number in {one.number for one in study.front}
    label = f"{study.name} {point.number}"
    return System(label, True, x, y, describe(point), faint=not is_best)


def write_json(answers: Answers, file: Path) -> None:
    """Write all that the studies say."""
    write_text(file, json.dumps({"made_by": MADE_BY, "studies": answers}, indent=1))


def write_csv(studies: list[Study], file: Path) -> None:
    """Write every measured point with its values, costs and metrics."""
    rows = []
    for study in studies:
        best = {point.number for point in study.front}
        for point, name in zip(study.points, study.names, strict=True):
            on_front = "yes" if point.number in best else "no"
            first = {"study": study.name, "point": point.number, "combination": name}
            rows.append({**first, "on_front": on_front, **point.point, **point.figures})
    stream = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, stream.getvalue())


def write_page(studies: list[Study], answers: Answers, axis: str, metric: str, file: Path) -> None:
    """Write the page: the chart with all points, thresholds, combinations, the front.

    Args:
        studies: The studies.
        answers: What each says.
        axis: The cost that is shown first.
        metric: The metric that is shown first.
        file: The page.
    """
    board = board_of(studies)
    shown = axis if axis in AXES else "bytes"
    page = (
        environment()
        .get_template("front.html.j2")
        .render(
            title=", ".join(study.name for study in studies),
            board=board,
            images=(*studies[0].data, 0, 0, 0)[2],
            data=chart_data(board, metric, shown),
            axis=axis,
            thresholds=[row for one in answers for row in threshold_rows(one)],
            combinations=[row for one in answers for row in _combination_rows(one)],
            beaten=[row for one in answers for row in _beaten_rows(one)],
            front=[row for study in studies for row in _front_rows(study)],
        )
    )
    pages.write(page, file)


def threshold_rows(one: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each metric of a study: threshold, interval, slopes, knee, the proxy's rank."""
    rows = []
    for metric, said in one["metrics"].items():
        found = said["threshold"]
        rows.append(
            {
                "study": one["study"],
                "metric": metric,
                "threshold": found["size"],
                "95% from": found["low"],
                "to": found["high"],
                "per halving above": found["above"],
                "below": found["below"],
                "front": found["points"],
                "chance": found["chance"],
                "knee": said["knee"],
                "rank of the proxy": said["rank_correlation_of_proxy"],
                "why none": found["why_none"],
            }
        )
    return rows


def _combination_rows(one: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for metric, said in one["metrics"].items():
        for name, group in said["by_combination"].items():
            threshold = group["threshold"]["size"]
            fields = {"points": group["points"], "best": group["best"]}
            fields |= {"smallest": group["smallest"], "threshold": threshold}
            rows.append({"study": one["study"], "metric": metric, "combination": name, **fields})
    return rows


def _beaten_rows(one: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"study": one["study"], "metric": metric, **row}
        for metric, said in one["metrics"].items()
        for row in said["beaten"]
    ]


def _front_rows(study: Study) -> list[dict[str, Any]]:
    names = dict(zip((point.number for point in study.points), study.names, strict=True))
    return [
        {
            "recipe": recipe_name(study, point),
            "combination": names[point.number],
            **{one.name: point.figures[one.name] for one in study.settings.objectives},
            "values": describe(point),
        }
        for point in study.front
    ]


def recipe_name(study: Study, point: Ended) -> str:
    """The name of a point's recipe, and of its file."""
    return f"{study.name}_{point.number}"


def write_recipes(study: Study, folder: Path) -> list[Path]:
    """Write each point of the front as a recipe that runs alone; returns the files."""
    files = []
    for point in study.front:
        name = recipe_name(study, point)
        recipe = study.settings.recipe_at(point.point).model_copy(update={"name": name})
        figures = ", ".join(
            f"{one.name} {point.figures[one.name]:.6g}" for one in study.settings.objectives
        )
        head = f"# Point {point.number} of the study {study.name}: {figures}.\n# {MADE_BY}\n"
        file = folder / f"{name}.yaml"
        write_text(file, head + to_yaml(recipe))
        files.append(file)
    return files


def first_metric(study: Study) -> str:
    """The metric that is shown first: the first objective that is one, else the first measured."""
    wanted = [one.name for one in study.settings.objectives if not one.is_cost]
    return (wanted or study.metrics)[0]


def as_text(one: dict[str, Any]) -> str:
    """What a study says, in some lines."""
    lines = [f"{one['study']}: {one['measured']} points measured, {len(one['front'])} on the front"]
    for metric, said in one["metrics"].items():
        found = said["threshold"]
        text = f"no threshold: {found['why_none']}"
        if found["size"] is not None:
            text = (
                f"threshold at {one['axis']} {found['size']:,.5g} "
                f"(95%: {found['low']:,.5g} to {found['high']:,.5g}); per halving "
                f"{found['above']:+.4g} above it, {found['below']:+.4g} below"
            )
        lines.append(f"  {metric} {metric_of(metric).arrow}: {text}; knee: point {said['knee']}")
    return "\n".join(lines)
