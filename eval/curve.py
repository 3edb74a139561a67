"""python -m eval.curve RUN… -o curve.png: size against quality, beside the published systems of the same protocol."""

import argparse
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import Bbox

from compress.errors import UserError, command
from eval.metrics import METRICS
from eval.points import AXES, Point, Selection, select

OURS, THEIRS, INK = "#c2410c", "#64748b", "#1f2937"
# where a label may stand, in points from its dot: (dx, dy, horizontal, vertical), best first
PLACES = [(dx * r, dy * r, ha, va) for r in (7, 13, 20, 28, 38, 50) for dx, dy, ha, va in (
    (1, 0, "left", "center"), (-1, 0, "right", "center"), (0, 1, "center", "bottom"), (0, -1, "center", "top"),
    (.8, .8, "left", "bottom"), (.8, -.8, "left", "top"), (-.8, .8, "right", "bottom"), (-.8, -.8, "right", "top"))]


def draw(selection: Selection, path: str | Path) -> tuple[Path, Path]:
    """Write `selection` as PNG and SVG under the stem of `path`; returns both paths."""
    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg"):
        raise UserError(f"-o {path}: give a name that ends in .png or .svg; both are written")
    figure = Figure(figsize=(8.4, 5.2), dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for ours, colour, marker, size, name in ((False, THEIRS, "o", 34, "published"),
                                             (True, OURS, "D", 52, "measured here")):
        points = [p for p in selection.points if p.ours == ours]
        if points:
            axes.scatter([p.x for p in points], [p.y for p in points], s=size, c=colour, marker=marker,
                         edgecolors="white", linewidths=.8, zorder=3, label=name)
    _dress(axes, selection)
    figure.draw_without_rendering()  # fixes the layout, without which no label knows its pixels
    _label(figure, axes, selection.points)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix in (".png", ".svg"):
        partial = path.with_name(f".{path.stem}.partial{suffix}")
        try:
            figure.savefig(partial)
            partial.replace(path.with_suffix(suffix))
        finally:
            partial.unlink(missing_ok=True)
        written.append(path.with_suffix(suffix))
    return written[0], written[1]


def _dress(axes, selection: Selection) -> None:
    arrow = "higher is better" if METRICS[selection.metric].higher else "lower is better"
    axes.set_xscale("log")
    axes.margins(x=.12, y=.12)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(AXES[selection.axis][3], color=INK)
    axes.set_ylabel(f"{selection.metric.upper()}  ({arrow})", color=INK)
    axes.set_title(f"{selection.dataset}, protocol “{selection.protocol}”", loc="left", color=INK, fontsize=12,
                   fontweight="bold")
    axes.grid(True, which="major", color="#e5e7eb", linewidth=.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9ca3af")
    axes.tick_params(colors=INK, which="both", labelsize=9)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(0, -.12), ncols=2, labelcolor=INK)
    if not any(not p.ours for p in selection.points):
        note = "no published system has this metric on this data set and protocol with a printed size"
    else:
        note = f"size not comparable or not printed: {', '.join(selection.left_out)}" if selection.left_out else ""
    axes.annotate(note, (1, -.155), xycoords="axes fraction", ha="right", va="center", fontsize=7.5, color=THEIRS)


def _label(figure: Figure, axes, points: list[Point]) -> None:
    """Put each name at the first place, nearest its dot, that covers no dot, no other name and stays inside."""
    renderer = figure.canvas.get_renderer()
    unit = figure.dpi / 72
    dots = [axes.transData.transform((p.x, p.y)) for p in points]
    taken = [Bbox.from_bounds(x - 4 * unit, y - 4 * unit, 8 * unit, 8 * unit) for x, y in dots]
    frame = axes.get_window_extent(renderer)
    for point in sorted(points, key=lambda p: not p.ours):  # ours choose first
        best = None
        for dx, dy, ha, va in PLACES:
            text = axes.annotate(point.label, (point.x, point.y), (dx, dy), textcoords="offset points", ha=ha, va=va,
                                 fontsize=9 if point.ours else 8, fontweight="bold" if point.ours else "normal",
                                 color=OURS if point.ours else INK, zorder=4)
            box = text.get_window_extent(renderer).padded(1.5 * unit)
            covered = sum(_shared(box, other) for other in taken) + box.width * box.height - _shared(box, frame)
            if best is None or covered < best[0]:
                if best is not None:
                    best[1].remove()
                best = (covered, text, box, max(abs(dx), abs(dy)))
            else:
                text.remove()
            if best[0] < 1e-6:
                break
        taken.append(best[2])
        if best[3] > 16:  # far from its dot: a thin line says whose name it is
            axes.annotate("", (point.x, point.y), best[1].get_position(), textcoords="offset points",
                          arrowprops={"arrowstyle": "-", "color": "#cbd5e1", "linewidth": .7}, zorder=2)


def _shared(a: Bbox, b: Bbox) -> float:
    """Area in square pixels that two boxes have in common."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0) * max(height, 0)


@command
def main(argv: list[str]) -> int:
    """Draw the runs named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m eval.curve", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories that were evaluated")
    parser.add_argument("-o", "--out", required=True, help="curve.png; the .svg is written beside it")
    parser.add_argument("--metric", default="musiq")
    parser.add_argument("--dataset", help="RealSR, DRealSR, DIV2K, …; default: the one that all runs share")
    parser.add_argument("--x", default="size", help=f"{', '.join(AXES)}; default %(default)s")
    args = parser.parse_args(argv)
    selection = select(args.runs, args.metric, args.dataset, args.x)
    print("written: " + ", ".join(str(path) for path in draw(selection, args.out)))
    return 0


if __name__ == "__main__":
    main()
