"""python -m eval.curve RUN… -o curve.png: size, MACs or latency against quality, beside the published systems of the
same data set and protocol; as PNG, SVG and an interactive page."""

import argparse
import textwrap
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from compress.core.errors import UserError, command
from compress.core.files import MADE_BY, check_file, replacing
from eval.metric.metrics import METRICS
from eval.reporting import pages
from eval.reporting.points import (
    AXES,
    DEVICE,
    Board,
    Point,
    Selection,
    check,
    choose,
    front,
    gather,
    until,
)

OURS, THEIRS, INK = "#c2410c", "#64748b", "#1f2937"
# where a label may stand, in points from its dot: (dx, dy, horizontal, vertical), best first
PLACES = [
    (dx * r, dy * r, ha, va)
    for r in (7, 13, 20, 28, 38, 50)
    for dx, dy, ha, va in (
        (1, 0, "left", "center"),
        (-1, 0, "right", "center"),
        (0, 1, "center", "bottom"),
        (0, -1, "center", "top"),
        (0.8, 0.8, "left", "bottom"),
        (0.8, -0.8, "left", "top"),
        (-0.8, 0.8, "right", "bottom"),
        (-0.8, -0.8, "right", "top"),
    )
]
LINE = 16  # in points: a label farther from its dot has a line to it


def draw(selection: Selection, path: str | Path) -> tuple[Path, Path]:
    """Write `selection` as PNG and SVG under the stem of `path`; returns both paths."""
    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg"):
        raise UserError(f"-o {path}: give a name that ends in .png or .svg; both are written")
    figure = Figure(figsize=(8.4, 5.2), dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for ours, colour, marker, size, name in (
        (False, THEIRS, "o", 34, "published"),
        (True, OURS, "D", 52, ours_are(selection.axis)),
    ):
        points = [p for p in selection.points if p.ours == ours]
        if points:
            axes.scatter(
                [p.x for p in points],
                [p.y for p in points],
                s=size,
                c=colour,
                marker=marker,
                edgecolors="white",
                linewidths=0.8,
                zorder=3,
                label=name,
            )
    best = front(selection.points, METRICS[selection.metric].higher)
    _dress(axes, selection)
    axes.step(
        [p.x for p in best] + [axes.get_xlim()[1]],
        [p.y for p in best] + [best[-1].y],
        where="post",
        color=OURS,
        linewidth=1.1,
        linestyle=(0, (5, 4)),
        alpha=0.7,
        zorder=1,
        label="Pareto front",
    )
    axes.legend(
        frameon=False,
        fontsize=9,
        loc="upper left",
        bbox_to_anchor=(0, -0.12),
        ncols=3,
        labelcolor=INK,
    )
    figure.draw_without_rendering()  # fixes the layout, without which no label knows its pixels
    _label(figure, axes, selection.points, best)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix in (".png", ".svg"):
        with replacing(path.with_suffix(suffix)) as partial:
            figure.savefig(
                partial, metadata={"Software" if suffix == ".png" else "Creator": MADE_BY}
            )
        written.append(path.with_suffix(suffix))
    return written[0], written[1]


def ours_are(axis: str) -> str:
    """What the legend calls our runs: their latency on a phone is predicted, all else was measured or counted."""
    return "ours (quality measured, latency predicted)" if axis == "latency" else "measured here"


def _dress(axes, selection: Selection) -> None:
    arrow = "higher is better" if METRICS[selection.metric].higher else "lower is better"
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.12)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{x:,g}" if x < 1e4 else f"{x:,.0f}")
    )
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(axes.get_xlim())  # the front goes to the border without moving it
    axes.set_xlabel(selection.x_label, color=INK)
    axes.set_ylabel(f"{selection.metric.upper()}  ({arrow})", color=INK)
    axes.set_title(
        f"{selection.dataset}, protocol “{selection.protocol}”",
        loc="left",
        color=INK,
        fontsize=12,
        fontweight="bold",
    )
    axes.grid(True, which="major", color="#e5e7eb", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9ca3af")
    axes.tick_params(colors=INK, which="both", labelsize=9)
    if any(not p.ours for p in [*selection.points, *selection.beyond]):
        notes = []
        if selection.beyond:
            beyond = ", ".join(f"{p.label} ({p.x:,.4g}; {p.y:.4g})" for p in selection.beyond)
            notes.append(f"beyond this axis: {beyond}")
        if selection.left_out:
            notes.append(
                f"not on this axis (not printed, or counted otherwise): {', '.join(selection.left_out)}"
            )
        note = "\n".join(textwrap.fill(line, 150) for line in notes)
    else:
        note = (
            "no published system has this metric on this data set and protocol, placed on this axis"
        )
    axes.annotate(
        note, (0, -0.2), xycoords="axes fraction", ha="left", va="top", fontsize=7.5, color=THEIRS
    )


def _label(figure: Figure, axes, points: list[Point], best: list[Point]) -> None:
    """Put each name at the first place, nearest its dot, that covers no dot, no name, not the front and stays
    inside, and whose line to the dot meets no other."""
    renderer = figure.canvas.get_renderer()
    unit = figure.dpi / 72
    dots = [axes.transData.transform((p.x, p.y)) for p in points]
    taken = [Bbox.from_bounds(x - 4 * unit, y - 4 * unit, 8 * unit, 8 * unit) for x, y in dots]
    frame = axes.get_window_extent(renderer)
    steps = [axes.transData.transform((p.x, p.y)) for p in best]
    corners = [
        (x, y, x2, y2)
        for (x, y), (x2, y2) in zip(steps, [*steps[1:], (frame.x1, steps[-1][1])], strict=True)
    ]
    taken += [Bbox.from_extents(x, y - unit, x2, y + unit) for x, y, x2, _ in corners]
    taken += [
        Bbox.from_extents(x2 - unit, min(y, y2), x2 + unit, max(y, y2)) for _, y, x2, y2 in corners
    ]
    for point in sorted(points, key=lambda p: not p.ours):  # ours choose first
        best = None
        for dx, dy, ha, va in PLACES:
            text = axes.annotate(
                point.label,
                (point.x, point.y),
                (dx, dy),
                textcoords="offset points",
                ha=ha,
                va=va,
                fontsize=9 if point.ours else 8,
                fontweight="bold" if point.ours else "normal",
                color=OURS if point.ours else INK,
                zorder=4,
            )
            box = text.get_window_extent(renderer).padded(1.5 * unit)
            covered = (
                sum(_shared(box, other) for other in taken)
                + box.width * box.height
                - _shared(box, frame)
            )
            if max(abs(dx), abs(dy)) > LINE:  # nor may its line run through another's dot
                start = axes.transData.transform((point.x, point.y))
                along = [
                    (start[0] + dx * unit * t, start[1] + dy * unit * t)
                    for t in (0.2, 0.4, 0.6, 0.8, 1)
                ]
                covered += box.width * sum(
                    abs(x - u) + abs(y - v) < 8 * unit
                    for x, y in dots
                    for u, v in along
                    if abs(x - start[0]) + abs(y - start[1]) > 1
                )
            if best is None or covered < best[0]:
                if best is not None:
                    best[1].remove()
                best = (covered, text, box, max(abs(dx), abs(dy)))
            else:
                text.remove()
            if best[0] < 1e-6:
                break
        taken.append(best[2])
        if best[3] > LINE:  # far from its dot: a thin line says whose name it is
            axes.annotate(
                "",
                (point.x, point.y),
                best[1].get_position(),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": "#cbd5e1", "linewidth": 0.7},
                zorder=2,
            )


def _shared(a: Bbox, b: Bbox) -> float:
    """Area in square pixels that two boxes have in common."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0) * max(height, 0)


def chart_data(board: Board, metric: str, axis: str) -> dict:
    """What the page's script draws: every system with all of its axes and metrics, and what to show first."""
    labels = {name: entry.label for name, entry in AXES.items()}
    if board.device:
        labels["latency"] = f"ms at 128 → 512 on {board.device} (ours predicted, others published)"
    return {
        "axis": axis,
        "metric": metric,
        "axes": labels,
        "metrics": {n: m.higher for n, m in METRICS.items()},
        "systems": [
            {"label": s.label, "ours": s.ours, "x": s.x, "y": s.y, "note": s.note}
            for s in board.systems
        ],
    }


def write_page(board: Board, metric: str, axis: str, path: Path) -> Path:
    """The interactive page: choose both axes, hover for figures. Self-contained."""
    page = (
        pages.environment()
        .get_template("curve.html.j2")
        .render(
            title=f"{board.dataset}, protocol “{board.protocol}”",
            data=chart_data(board, metric, axis),
        )
    )
    return pages.write(page, path)


@command
def main(argv: list[str]) -> int:
    """Draw the runs named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m eval.curve", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run directories that were evaluated"
    )
    parser.add_argument(
        "-o", "--out", required=True, help="curve.png; .svg and .html are written beside it"
    )
    parser.add_argument("--metric", default="musiq")
    parser.add_argument(
        "--dataset", help="RealSR, DRealSR, DIV2K, …; default: the one that all runs share"
    )
    parser.add_argument("--x", default="size", help=f"{', '.join(AXES)}; default %(default)s")
    parser.add_argument(
        "--x-max",
        type=float,
        help="published systems beyond it are named below the picture, not drawn",
    )
    parser.add_argument("--device", help=f"whose latency; default with --x latency: {DEVICE}")
    args = parser.parse_args(argv)
    check(args.metric, args.x)
    if Path(args.out).suffix.lower() not in (".png", ".svg"):
        raise UserError(
            f"-o {args.out}: give a name that ends in .png or .svg; both are written, and .html"
        )
    for suffix in (".png", ".svg", ".html"):
        check_file(Path(args.out).with_suffix(suffix), "-o")
    board = gather(
        args.runs, args.dataset, args.device or (DEVICE if args.x == "latency" else None)
    )
    selection = choose(board, args.metric, args.x)
    written = [
        *draw(selection if args.x_max is None else until(selection, args.x_max), args.out),
        write_page(board, args.metric, args.x, Path(args.out).with_suffix(".html")),
    ]
    print("written: " + ", ".join(str(path) for path in written))
    return 0


if __name__ == "__main__":
    main()
