"""A graph as a picture, coloured by the verdicts of a report."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import onnx

from compress.core.errors import UserError
from compress.core.files import MADE_BY, replacing
from export.linting.report import Finding, Report
from export.linting.rules import POOR, SUPPORTED, UNKNOWN, UNSUPPORTED

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.collections import LineCollection
from matplotlib.patches import Patch, Rectangle

COLOURS = {SUPPORTED: "#8fbf8f", POOR: "#e8c547", UNSUPPORTED: "#d1495b", UNKNOWN: "#8e7cc3"}
LIGHT_TEXT = (UNSUPPORTED, UNKNOWN)  # verdicts whose colours are dark
SUFFIXES = (".png", ".svg", ".pdf")
COLUMNS = 38  # steps of depth in one band; the graph wraps like text
LANES = 8  # nodes of one depth; more are stacked in the next columns
NAME = 9  # characters of an operator's name
BOX = (0.9, 0.7)  # width and height of a node, in columns and lanes
INCHES = (22, 0.42)  # width of the picture, and height of a lane
SHORT = {
    "InstanceNormalization": "InstNrm",
    "LayerNormalization": "LayNorm",
    "GroupNormalization": "GrpNorm",
    "DepthToSpace": "D2S",
    "SpaceToDepth": "S2D",
    "ReduceMean": "Mean",
    "ReduceSum": "Sum",
    "Transpose": "Transp",
    "Reciprocal": "Recip",
    "ConvTranspose": "ConvT",
    "Unsqueeze": "Unsqz",
}
Places = dict[int, tuple[int, int]]


def places(model: onnx.ModelProto, shown: set[int]) -> Places:
    """Where nodes stand: columns by the longest path from the inputs.

    Args:
        model: The graph.
        shown: The nodes that are drawn, by their place in the graph.

    Returns:
        Node -> (column, lane). A depth with more than LANES nodes takes several columns.
    """
    depth: dict[str, int] = {}
    rows: dict[int, list[int]] = {}
    for index, node in enumerate(model.graph.node):
        here = max((depth.get(name, 0) for name in node.input), default=0)
        after = here + 1 if index in shown else here
        depth.update(dict.fromkeys(node.output, after))
        if index in shown:
            rows.setdefault(here, []).append(index)
    found: Places = {}
    column = 0
    for level in sorted(rows):
        for place, index in enumerate(rows[level]):
            found[index] = (column + place // LANES, place % LANES)
        column += (len(rows[level]) - 1) // LANES + 1
    return found


class Layout:
    """Places in bands of COLUMNS, one below the other.

    Attributes:
        places: Node -> (column, lane).
        height: Of all bands, in lanes.
    """

    def __init__(self, nodes: Places):
        self.places = nodes
        lanes: dict[int, int] = {0: 1}
        for column, lane in nodes.values():
            band = column // COLUMNS
            lanes[band] = max(lanes.get(band, 1), lane + 1)
        self.tops = []
        self.height = 0.0
        for band in range(max(lanes) + 1):
            self.tops.append(self.height)
            self.height += lanes.get(band, 1) + 1.0

    def band(self, index: int) -> int:
        """The band that a node stands in."""
        return self.places[index][0] // COLUMNS

    def corner(self, index: int) -> tuple[float, float]:
        """The upper left corner of a node."""
        column, lane = self.places[index]
        return column % COLUMNS, self.tops[self.band(index)] + lane


def check_suffix(path: Path) -> None:
    """Refuse a kind of file that cannot be drawn.

    Raises:
        UserError: It is such a kind.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"--picture {path}: cannot draw this kind of file; choose .png, .svg or .pdf"
        )


def draw(model: onnx.ModelProto, report: Report, path: Path) -> None:
    """Write the picture.

    Args:
        model: The graph.
        report: What the lint says of it.
        path: A .png, .svg or .pdf file.

    Raises:
        UserError: It has another suffix.
    """
    path = Path(path)
    check_suffix(path)
    findings = {finding.index: finding for finding in report.findings}
    layout = Layout(places(model, set(findings)))
    width, lane = INCHES
    height = max(3.0, lane * layout.height + 1.2)
    figure, axes = pyplot.subplots(figsize=(width, height), dpi=100)
    lines = list(_edges(model, layout))
    axes.add_collection(LineCollection(lines, colors="#999999", linewidths=0.5, zorder=1))
    for index, finding in findings.items():
        _draw_node(axes, finding, *layout.corner(index))
    _describe(axes, report)
    axes.set_xlim(-0.5, COLUMNS + 0.5)
    axes.set_ylim(layout.height, -0.5)
    axes.axis("off")
    key = "Software" if path.suffix.lower() == ".png" else "Creator"
    with replacing(path) as partial:
        figure.savefig(partial, bbox_inches="tight", metadata={key: MADE_BY})
    pyplot.close(figure)


def _draw_node(axes: Any, finding: Finding, x: float, y: float) -> None:
    box = Rectangle(
        (x, y),
        *BOX,
        facecolor=COLOURS[finding.verdict],
        edgecolor="#444444",
        linewidth=0.4,
        zorder=2,
    )
    axes.add_patch(box)
    axes.text(
        x + 0.45,
        y + 0.36,
        SHORT.get(finding.op, finding.op)[:NAME],
        fontsize=6.2,
        ha="center",
        va="center",
        zorder=3,
        color="white" if finding.verdict in LIGHT_TEXT else "#222222",
    )


def _describe(axes: Any, report: Report) -> None:
    """Give the picture its legend and title."""
    counts = report.counts
    axes.legend(
        handles=[Patch(color=COLOURS[v], label=f"{v}: {counts[v]}") for v in COLOURS],
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=4,
        frameon=False,
        fontsize=10,
    )
    axes.set_title(
        f"{Path(report.file).name} for {report.target.title}: {report.partitions} partitions, "
        f"{len(report.refused)} operators on the CPU",
        fontsize=12,
        pad=28,
    )


def _edges(model: onnx.ModelProto, layout: Layout) -> Iterator[list[tuple[float, float]]]:
    """Lines within a band; one that crosses into another would run over everything."""
    width, height = BOX
    maker: dict[str, int] = {}  # value -> the drawn node that it comes from
    for index, node in enumerate(model.graph.node):
        sources = [maker[name] for name in node.input if name in maker]
        if index in layout.places:
            for source in sources:
                if layout.band(source) == layout.band(index):
                    x0, y0 = layout.corner(source)
                    x1, y1 = layout.corner(index)
                    yield [(x0 + width, y0 + height / 2), (x1, y1 + height / 2)]
            sources = [index]
        if sources:
            maker.update(dict.fromkeys(node.output, sources[0]))
