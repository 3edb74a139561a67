"""Metric against metric: where systems stand between fidelity and perception, with their knobs.

A run that was evaluated at several strengths is a line from faithful to full, not one point.
"""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from compress.core.errors import UserError
from eval.metric.names import metric_of
from eval.reporting.board import Board, System
from eval.reporting.colours import INK, OURS
from eval.reporting.curve import add_legend, dress_plain, figure_of, save, scatter
from eval.reporting.labels import label_points
from eval.reporting.points import Point, without_metric

MARKS = 8  # points of the size of a strength's number


@dataclass(frozen=True)
class Knob:
    """The knob's line of one run.

    Attributes:
        label: The run's name.
        strengths: From 0 to 1, ascending.
        x: The first metric's mean at each.
        y: The second metric's mean at each.
    """

    label: str
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
    found = [_knob(system, x, y) for system in board.systems]
    knobs = [knob for knob in found if knob is not None]
    return Tradeoff(board.dataset, board.protocol, x, y, points, knobs)


def _knob(system: System, x: str, y: str) -> Knob | None:
    rows = [row for row in system.knob if x in row and y in row]
    if len(rows) < 2:
        return None
    return Knob(
        system.label,
        tuple(row["strength"] for row in rows),
        tuple(row[x] for row in rows),
        tuple(row[y] for row in rows),
    )


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
    for number, knob in enumerate(tradeoff.knobs):
        # One entry of the legend for all: a line ends at the run's name.
        _draw_knob(axes, knob, None if number else "strength of a run, 0 to 1")
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
    label_points(canvas, axes, [*tradeoff.points, *dots], [])
    return figure


def _draw_knob(axes: Axes, knob: Knob, label: str | None) -> None:
    axes.plot(
        knob.x,
        knob.y,
        color=OURS,
        linewidth=1.2,
        marker="o",
        markersize=3,
        zorder=2,
        label=label,
    )
    for strength, x, y in zip(knob.strengths, knob.x, knob.y, strict=True):
        axes.annotate(
            f"{strength:g}",
            (x, y),
            (0, -MARKS - 2),
            textcoords="offset points",
            fontsize=MARKS - 1,
            ha="center",
            color=INK,
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
