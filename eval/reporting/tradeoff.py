"""Metric against metric: where systems stand between fidelity and perception, with their knobs.

A run that was evaluated at several strengths is a line from faithful to full, not one point.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from compress.core.errors import UserError
from compress.process.knobs import NOISE, OUTPUTS, STEPS, WEIGHTS
from compress.process.strength import FULL
from eval.metric.names import metric_of
from eval.reporting.board import Board, System
from eval.reporting.colours import INK, OURS
from eval.reporting.curve import add_legend, dress_plain, figure_of, save, scatter
from eval.reporting.labels import label_points
from eval.reporting.points import Point, without_metric

KINDS = {
    OUTPUTS: "strength of a run, 0 to 1",
    NOISE: "the same of its noise",
    STEPS: "the same of its steps",
    WEIGHTS: "the same of its weights",
}
STYLES = {OUTPUTS: "-", NOISE: "--", STEPS: ":", WEIGHTS: "-."}
MARKS = 8  # points of the size of a strength's number
FAR, WIDE = 10, 5  # points from a dot to its number, and more where it stands beside it
BEAD = 4  # pixels of the squares that a line is taken for


@dataclass(frozen=True)
class Knob:
    """The line of one knob of one run.

    Attributes:
        label: The run's name.
        knob: Which, one of `compress.process.knobs.KNOBS`.
        strengths: From 0 to 1, ascending.
        x: The first metric's mean at each.
        y: The second metric's mean at each.
    """

    label: str
    knob: str
    strengths: tuple[float, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Tradeoff:
    """Everything on a plane of two metrics.

    Attributes:
        dataset: The data set.
        protocol: The protocol.
        x: The metric across, its name.
        y: The metric up.
        points: The systems that have both.
        knobs: The lines of the runs that were evaluated at several strengths.
    """

    dataset: str
    protocol: str
    x: str
    y: str
    points: list[Point]
    knobs: list[Knob]


def place(board: Board, x: str, y: str) -> Tradeoff:
    """The systems of a board on the plane of two metrics.

    Args:
        board: The systems.
        x: The metric across, such as psnr.
        y: The metric up, such as lpips.

    Raises:
        UserError: Both are one metric, or one of our runs lacks one.
    """
    if x == y:
        raise UserError(f"--x {x} and --metric {y} are one metric; choose two")
    points = []
    for system in board.systems:
        missing = [metric for metric in (x, y) if metric not in system.y]
        if missing and system.run is not None:
            raise UserError(without_metric(system, system.run, missing[0], board.dataset))
        if not missing:
            points.append(Point(system.label, system.y[x], system.y[y], system.ours))
    knobs = [knob for system in board.systems for knob in _knobs(system, x, y)]
    return Tradeoff(board.dataset, board.protocol, x, y, points, knobs)


def _knobs(system: System, x: str, y: str) -> list[Knob]:
    found = []
    for knob, all_rows in system.knobs.items():
        rows = [row for row in all_rows if x in row and y in row]
        if len(rows) > 1:
            strengths = tuple(row["strength"] for row in rows)
            across = tuple(row[x] for row in rows)
            found.append(Knob(system.label, knob, strengths, across, tuple(row[y] for row in rows)))
    return found


def draw_tradeoff(tradeoff: Tradeoff, path: str | Path) -> tuple[Path, Path]:
    """Write the plane as PNG and SVG.

    Args:
        tradeoff: What to draw.
        path: Its stem names both files.

    Returns:
        The paths of the PNG and the SVG.

    Raises:
        UserError: The name ends in neither suffix.
    """
    figure, canvas, axes = figure_of()
    scatter(axes, [point for point in tradeoff.points if not point.ours], ours=False)
    scatter(axes, [point for point in tradeoff.points if point.ours], ours=True)
    told: set[str] = set()
    for knob in tradeoff.knobs:
        # One entry of the legend for all of a kind: a line ends at the run's name.
        _draw_knob(axes, knob, None if knob.knob in told else KINDS[knob.knob])
        told.add(knob.knob)
    _dress(axes, tradeoff)
    return save(_labelled(figure, canvas, axes, tradeoff), path)


def _labelled(figure: Figure, canvas: FigureCanvasAgg, axes: Axes, tradeoff: Tradeoff) -> Figure:
    """The figure with the names of its points, beside the dots of all strengths."""
    figure.draw_without_rendering()  # fixes the layout, without which no label knows its pixels
    dots = [
        Point("", x, y, True)
        for knob in tradeoff.knobs
        for x, y in zip(knob.x, knob.y, strict=True)
    ]
    renderer = canvas.get_renderer()
    numbers = [text for knob in tradeoff.knobs for text in _number(axes, knob)]
    taken = [text.get_window_extent(renderer) for text in numbers]
    taken += [box for knob in tradeoff.knobs for box in _line_boxes(axes, knob)]
    label_points(canvas, axes, [*tradeoff.points, *dots], [], taken)
    return figure


def _line_boxes(axes: Axes, knob: Knob) -> list[Bbox]:
    """Small squares along a line, in pixels."""
    points = axes.transData.transform(list(zip(knob.x, knob.y, strict=True)))
    boxes = []
    for start, end in pairwise(points):
        count = int(np.hypot(*(end - start)) // BEAD) + 1
        for x, y in np.linspace(start, end, count + 1):
            boxes.append(Bbox.from_bounds(x - BEAD / 2, y - BEAD / 2, BEAD, BEAD))
    return boxes


def _number(axes: Axes, knob: Knob) -> list[Annotation]:
    """Each strength beside its dot, away from the line; the run's own point has its name."""
    points = axes.transData.transform(list(zip(knob.x, knob.y, strict=True)))
    found = []
    for place, strength in enumerate(knob.strengths):
        if strength == FULL:
            continue
        across, up = _away(points, place)
        found.append(
            axes.annotate(
                f"{strength:g}",
                (knob.x[place], knob.y[place]),
                ((FAR + WIDE) * across, FAR * up),
                textcoords="offset points",
                fontsize=MARKS - 1,
                ha="center",
                va="center",
                color=INK,
            )
        )
    return found


def _away(points: np.ndarray, place: int) -> np.ndarray:
    """The direction, of length 1, in which a number at a dot of a line leaves the line.

    Args:
        points: Of the line, [n, 2] in pixels.
        place: Which.
    """
    before, after = points[max(0, place - 1)], points[min(len(points) - 1, place + 1)]
    along = after - before
    length = float(np.hypot(*along))
    if not length:
        return np.array([0.0, -1.0])
    across = np.array([along[1], -along[0]]) / length
    bend = float(across @ (2 * points[place] - before - after))
    # Outside of a bend; of a straight line below it.
    is_other_side = bend < 0 if abs(bend) > 1 else across[1] > 0
    return -across if is_other_side else across


def _draw_knob(axes: Axes, knob: Knob, label: str | None) -> None:
    axes.plot(
        knob.x,
        knob.y,
        color=OURS,
        linewidth=1.2,
        linestyle=STYLES[knob.knob],
        marker="o",
        markersize=3,
        zorder=2,
        label=label,
    )


def _dress(axes: Axes, tradeoff: Tradeoff) -> None:
    axes.margins(x=0.12, y=0.12)
    axes.set_xlabel(_name(tradeoff.x), color=INK)
    axes.set_ylabel(_name(tradeoff.y), color=INK)
    dress_plain(axes, tradeoff.dataset, tradeoff.protocol)
    add_legend(axes)


def _name(metric: str) -> str:
    """A metric as an axis calls it."""
    direction = "higher" if metric_of(metric).higher else "lower"
    return f"{metric.upper()}  ({direction} is better)"
