"""What a study says: its front, knees, thresholds, and which combinations beat single techniques.

All of it comes from the study's folder alone.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compress.core.errors import UserError, nearest
from compress.search import snapshot
from compress.search.goals import COSTS
from compress.search.proxy import rank_correlation
from compress.search.settings import Settings, read_settings
from compress.search.snapshot import Ended, Row
from compress.search.space import text_of
from compress.search.techniques import (
    ALONE,
    Group,
    beaten_share,
    combination,
    grouped,
)
from compress.search.threshold import find_threshold, knee
from eval.metric.names import in_order, metric_of


@dataclass(frozen=True)
class Study:
    """A study as its folder holds it.

    Attributes:
        folder: The folder.
        settings: What it is of.
        rows: The points that have ended.
        points: Those that were measured.
        names: The combination of techniques of each of these.
    """

    folder: Path
    settings: Settings
    rows: list[Row]
    points: list[Ended]
    names: list[str]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def data(self) -> list[str | int]:
        """The data set, its protocol, and how many images."""
        return next((row["result"]["data"] for row in self.rows if row["result"]["data"]), [])

    @property
    def metrics(self) -> list[str]:
        """The metrics that every measured point has."""
        named = in_order(name for point in self.points for name in point.figures)
        return [name for name in named if all(name in point.figures for point in self.points)]

    @property
    def groups(self) -> list[Group]:
        """The measured points by combination of techniques."""
        return grouped(self.points, self.names)

    @property
    def front(self) -> list[Ended]:
        """The points that no other beats in all objectives."""
        return snapshot.front(self.points, self.settings.objectives)


def read_study(folder: Path) -> Study:
    """A study from its folder.

    Raises:
        UserError: There is none, or none of its points was measured.
    """
    settings = read_settings(folder)
    rows = snapshot.read(folder)
    points = snapshot.measured(rows)
    if not points:
        raise UserError(f"{folder}: none of its {len(rows)} points was measured")
    names = [combination(settings.recipe_at(point.point)) for point in points]
    return Study(folder, settings, rows, points, names)


def check_axis(axis: str) -> None:
    """Raise UserError for what is no cost."""
    if axis not in COSTS:
        raise UserError(
            f"--x '{axis}' is no cost{nearest(axis, COSTS)}; choose from {', '.join(COSTS)}"
        )


def describe(point: Ended) -> str:
    """The values of what varies at a point."""
    return " ".join(f"{key}={text_of(value)}" for key, value in point.point.items())


def answer(study: Study, axis: str) -> dict[str, Any]:
    """All that a study says, JSON-ready.

    Args:
        study: A study.
        axis: The cost that quality is seen against.
    """
    sizes = [point.figures[axis] for point in study.points]
    by_metric: dict[str, Any] = {}
    for metric in study.metrics:
        higher = metric_of(metric).higher
        values = [point.figures[metric] for point in study.points]
        bend = knee(sizes, values, higher)
        results = [row["result"] for row in study.rows]
        by_metric[metric] = {
            "threshold": asdict(find_threshold(sizes, values, higher)),
            "knee": None if bend is None else study.points[bend].number,
            "rank_correlation_of_proxy": rank_correlation(results, metric, higher),
            "by_combination": _by_combination(study, axis, metric),
            "beaten": _beaten(study, axis, metric),
        }
    return {
        "study": study.name,
        "data": study.data,
        "axis": axis,
        "measured": len(study.points),
        "ended": len(study.rows),
        "front": [point.number for point in study.front],
        "metrics": by_metric,
    }


def _by_combination(study: Study, axis: str, metric: str) -> dict[str, Any]:
    """Of each combination: how many points, the best, the smallest, and its own threshold."""
    found = {}
    higher = metric_of(metric).higher
    for group in study.groups:
        sizes = [point.figures[axis] for point in group.points]
        values = [point.figures[metric] for point in group.points]
        found[group.name] = {
            "points": len(group.points),
            "best": max(values) if higher else min(values),
            "smallest": min(sizes),
            "threshold": asdict(find_threshold(sizes, values, higher)),
        }
    return found


def _beaten(study: Study, axis: str, metric: str) -> list[dict[str, Any]]:
    """The share of a single technique's points that each combination beats: smaller and better."""
    singles = [group for group in study.groups if len(group.techniques) == 1]
    several = [group for group in study.groups if len(group.techniques) > 1]
    higher = metric_of(metric).higher
    return [
        {
            "combination": by.name,
            "technique": group.name,
            "share": round(beaten_share(group, by, axis, metric, higher), 4),
        }
        for by in several
        for group in singles
        if group.name != ALONE
    ]
