"""The front of studies as a picture: points, steps, the knee, the threshold and its interval."""

import math
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from compress.core.files import MADE_BY, replacing
from compress.search.answer import Study
from compress.search.goals import COSTS, LATENCY
from eval.metric.names import metric_of
from eval.reporting.axes import AXES, Axis
from eval.reporting.board import published_systems
from eval.reporting.colours import INK, LEADER, OURS
from eval.reporting.curve import add_legend, dress_axes, figure_of, scatter
from eval.reporting.labels import POINTS_AN_INCH, label_points
from eval.reporting.points import Point, front

DASHES = ((0, (2, 2)), (0, (5, 2)), (0, (1, 1)), (0, (6, 2, 1, 2)))  # of thresholds, in turn
RING = 150  # square points of the ring round a knee
CLEAR = 2  # points that names keep from a ring
SMALL = 14  # of a point that is on no front
MOST_NAMES = 12  # points of a front that all have their names; of a longer one the knees alone


def axis_of(name: str) -> Axis:
    """The axis of a cost; one that no curve has is in the cost's own unit."""
    return AXES.get(name, Axis(COSTS[name][1]))


def x_label(studies: list[Study], cost: str) -> str:
    """What the axis of a cost says."""
    label = axis_of(cost).label
    if cost != LATENCY:
        return label
    return f"{label}, predicted for {' and '.join(sorted({s.settings.phone for s in studies}))}"


def draw_front(
    studies: list[Study], answers: list[dict[str, Any]], cost: str, metric: str, file: Path
) -> None:
    """Write the picture of one metric against one cost, as PNG.

    Args:
        studies: Of one data set and protocol.
        answers: What each says, of this cost.
        cost: A key of COSTS.
        metric: One that every point has.
        file: The picture.
    """
    axis = axis_of(cost)
    figure, canvas, axes = figure_of()
    every = [point for study in studies for point in _points(study, cost, metric, axis)]
    best = front(every, metric_of(metric).higher)
    others = [point for point in every if point not in best]
    published = _published(studies, cost, metric)
    scatter(axes, published, ours=False)
    axes.scatter(
        [point.x for point in others],
        [point.y for point in others],
        s=SMALL,
        c=OURS,
        alpha=0.4,
        linewidths=0,
        zorder=2,
        label="measured here, another is better",
    )
    scatter(axes, best, ours=True, label="measured here, on the front")
    dataset, protocol = (str(word) for word in (*studies[0].data, "", "")[:2])
    dress_axes(axes, x_label(studies, cost), metric, dataset, protocol)
    axes.step(
        [point.x for point in best] + [axes.get_xlim()[1]],
        [point.y for point in best] + [best[-1].y],
        where="post",
        color=OURS,
        linewidth=1.1,
        alpha=0.7,
        zorder=1,
    )
    for study, said, dashes in zip(studies, answers, cycle(DASHES), strict=False):
        label = "threshold and its interval" if len(studies) == 1 else f"threshold of {study.name}"
        _draw_threshold(axes, said["metrics"][metric]["threshold"], axis, label, dashes)
    knees = _knees(studies, answers, cost, metric, axis)
    axes.scatter(
        [knee.x for knee in knees],
        [knee.y for knee in knees],
        s=RING,
        facecolors="none",
        edgecolors=INK,
        linewidths=1.4,
        zorder=4,
        label="knee",
    )
    add_legend(axes)
    figure.draw_without_rendering()  # fixes the layout, without which no label knows its pixels
    named = best if len(best) <= MOST_NAMES else []
    named = [*named, *(knee for knee in knees if knee not in named)]
    dots = [Point("", point.x, point.y, True) for point in every]
    taken = [_box_of_ring(axes, knee) for knee in knees]
    label_points(canvas, axes, [*published, *named, *dots], best, taken)
    with replacing(file) as partial:
        figure.savefig(partial, format="png", metadata={"Software": MADE_BY})


def _points(study: Study, cost: str, metric: str, axis: Axis) -> list[Point]:
    return [
        Point(
            f"{study.name} {point.number}",
            point.figures[cost] / axis.divisor,
            point.figures[metric],
            True,
        )
        for point in study.points
    ]


def _published(studies: list[Study], cost: str, metric: str) -> list[Point]:
    """Published systems of the same data set and protocol that stand within our points' costs."""
    dataset, protocol = (str(word) for word in (*studies[0].data, "", "")[:2])
    phones = {study.settings.phone for study in studies}
    device = phones.pop() if len(phones) == 1 else None
    divisor = axis_of(cost).divisor
    most = max(point.figures[cost] / divisor for study in studies for point in study.points)
    return [
        Point(system.label, system.x[cost], system.y[metric], False)
        for system in published_systems(dataset, protocol, device)
        if system.x.get(cost, float("inf")) <= most and metric in system.y
    ]


def _knees(
    studies: list[Study], answers: list[dict[str, Any]], cost: str, metric: str, axis: Axis
) -> list[Point]:
    """The knee of each study that has one, under its point's name."""
    found = []
    for study, said in zip(studies, answers, strict=True):
        label = f"{study.name} {said['metrics'][metric]['knee']}"
        found += [p for p in _points(study, cost, metric, axis) if p.label == label]
    return found


def _box_of_ring(axes: Axes, knee: Point) -> Bbox:
    """What the ring of a knee covers, in pixels."""
    x, y = axes.transData.transform((knee.x, knee.y))
    side = (math.sqrt(RING) + 2 * CLEAR) * axes.figure.dpi / POINTS_AN_INCH
    return Bbox.from_bounds(x - side / 2, y - side / 2, side, side)


def _draw_threshold(
    axes: Axes, found: dict[str, Any], axis: Axis, label: str, dashes: tuple
) -> None:
    """A line at the joint, and a band over the interval that has 95% of the joints."""
    if found["size"] is None:
        return
    size, low, high = (found[name] / axis.divisor for name in ("size", "low", "high"))
    axes.axvline(size, color=INK, linewidth=1.1, linestyle=dashes, zorder=1, label=label)
    axes.axvspan(low, high, color=LEADER, alpha=0.4, zorder=0)
