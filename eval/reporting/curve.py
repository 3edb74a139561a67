"""The curve of quality against cost as PNG and SVG: our runs, published systems, the front."""

import textwrap
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from compress.core.errors import UserError
from compress.core.files import MADE_BY, replacing
from eval.metric.names import metric_of
from eval.reporting.colours import GRID, INK, OURS, SPINES, THEIRS
from eval.reporting.labels import label_points
from eval.reporting.points import Point, Selection, front

SUFFIXES = (".png", ".svg")
WIDE = 200  # largest over smallest x from which only powers of ten have ticks
LONG = 1e4  # from this x on, ticks have no decimals
NOTE_WIDTH = 150  # characters of a line of the note below


def draw(selection: Selection, path: str | Path) -> tuple[Path, Path]:
    """Write `selection` as PNG and SVG.

    Args:
        selection: What to draw.
        path: Its stem names both files.

    Returns:
        The paths of the PNG and the SVG.

    Raises:
        UserError: The name ends in neither suffix.
    """
    _check_suffix(Path(path))
    return save(picture(selection), path)


def save(figure: Figure, path: str | Path) -> tuple[Path, Path]:
    """Write a figure as PNG and SVG.

    Args:
        figure: With its layout fixed.
        path: Its stem names both files.

    Raises:
        UserError: The name ends in neither suffix.
    """
    path = Path(path)
    _check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    png, svg = path.with_suffix(".png"), path.with_suffix(".svg")
    save_png(figure, png)
    with replacing(svg) as partial:
        figure.savefig(partial, metadata={"Creator": MADE_BY})
    return png, svg


def save_png(figure: Figure, path: Path, comment: str = "") -> None:
    """Write a figure as PNG.

    Args:
        figure: With its layout fixed.
        path: Of the file.
        comment: What the file says of itself, which Pillow gives as `info["Comment"]`.
    """
    words = {"Software": MADE_BY} | ({"Comment": comment} if comment else {})
    with replacing(path) as partial:
        figure.savefig(partial, format="png", metadata=words)


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"-o {path}: give a name that ends in .png or .svg; both are written")


def ours_are(axis: str, latency: str = "predicted") -> str:
    """What the legend calls our runs.

    Args:
        axis: What they are drawn against.
        latency: How their latency on a phone is known; all else was measured or counted.
    """
    return f"ours (quality measured, latency {latency})" if axis == "latency" else "measured here"


def figure_of() -> tuple[Figure, FigureCanvasAgg, Axes]:
    """An empty figure, its canvas and its axes."""
    figure = Figure(figsize=(8.4, 5.2), dpi=160, facecolor="white", layout="constrained")
    return figure, FigureCanvasAgg(figure), figure.add_subplot()


def picture(selection: Selection) -> Figure:
    """The figure of `selection`, its labels placed."""
    figure, canvas, axes = figure_of()
    scatter(axes, [point for point in selection.points if not point.ours], ours=False)
    ours = [point for point in selection.points if point.ours]
    known = " or ".join(sorted({point.word for point in ours}))
    scatter(axes, ours, ours=True, label=ours_are(selection.axis, known))
    best = front(selection.points, metric_of(selection.metric).higher)
    dress(axes, selection)
    _draw_front(axes, best)
    add_legend(axes)
    figure.draw_without_rendering()  # fixes the layout, without which no label knows its pixels
    label_points(canvas, axes, selection.points, best)
    return figure


def scatter(axes: Axes, points: list[Point], *, ours: bool, label: str = "") -> None:
    """Draw our points, or the published ones, if there are any.

    Args:
        axes: Where to draw.
        points: All ours or all published.
        ours: Which of both.
        label: What the legend calls ours.
    """
    if not points:
        return
    look: dict[str, Any] = {"s": 34, "c": THEIRS, "marker": "o", "label": "published"}
    if ours:
        look = {"s": 52, "c": OURS, "marker": "D", "label": label or ours_are("")}
    axes.scatter(
        [point.x for point in points],
        [point.y for point in points],
        edgecolors="white",
        linewidths=0.8,
        zorder=3,
        **look,
    )


def add_legend(axes: Axes) -> None:
    """Put the legend below the axes."""
    axes.legend(
        frameon=False,
        fontsize=9,
        loc="upper left",
        bbox_to_anchor=(0, -0.12),
        ncols=3,
        labelcolor=INK,
    )


def _draw_front(axes: Axes, best: list[Point]) -> None:
    axes.step(
        [point.x for point in best] + [axes.get_xlim()[1]],
        [point.y for point in best] + [best[-1].y],
        where="post",
        color=OURS,
        linewidth=1.1,
        linestyle=(0, (5, 4)),
        alpha=0.7,
        zorder=1,
        label="Pareto front",
    )


def dress(axes: Axes, selection: Selection) -> None:
    """Give the axes of `selection` their scales, names, grid and the note below."""
    dress_axes(axes, selection.x_label, selection.metric, selection.dataset, selection.protocol)
    axes.annotate(
        _note(selection),
        (0, -0.2),
        xycoords="axes fraction",
        ha="left",
        va="top",
        fontsize=7.5,
        color=THEIRS,
    )


def dress_axes(axes: Axes, x_label: str, metric: str, dataset: str, protocol: str) -> None:
    """Give axes of a metric against a cost their scales, names and grid.

    Args:
        axes: What is drawn on them, but for a line that goes to the border, is drawn already.
        x_label: The cost with its unit.
        metric: The name of the metric.
        dataset: For the title.
        protocol: For the title.
    """
    arrow = "higher is better" if metric_of(metric).higher else "lower is better"
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.12)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < WIDE else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(axes.get_xlim())  # the front goes to the border without moving it
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(f"{metric.upper()}  ({arrow})", color=INK)
    dress_plain(axes, dataset, protocol)


def dress_plain(axes: Axes, dataset: str, protocol: str) -> None:
    """Give axes their title and grid."""
    axes.set_title(
        f"{dataset}, protocol “{protocol}”",
        loc="left",
        color=INK,
        fontsize=12,
        fontweight="bold",
    )
    axes.grid(True, which="major", color=GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SPINES)
    axes.tick_params(colors=INK, which="both", labelsize=9)


def _tick(x: float, _: int | None) -> str:
    return f"{x:,g}" if x < LONG else f"{x:,.0f}"


def _note(selection: Selection) -> str:
    """Which published systems are not drawn, and why."""
    if all(point.ours for point in [*selection.points, *selection.beyond]):
        return (
            "no published system has this metric on this data set and protocol, placed on this axis"
        )
    notes = []
    if selection.beyond:
        beyond = [f"{point.label} ({point.x:,.4g}; {point.y:.4g})" for point in selection.beyond]
        notes.append(f"beyond this axis: {', '.join(beyond)}")
    if selection.left_out:
        left_out = ", ".join(selection.left_out)
        notes.append(f"not on this axis (not printed, or counted otherwise): {left_out}")
    return "\n".join(textwrap.fill(note, NOTE_WIDTH) for note in notes)
