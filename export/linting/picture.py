"""A graph as a picture, coloured by the verdicts of export/lint.py."""

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import onnx

from compress.core.errors import UserError
from compress.core.files import MADE_BY, replacing
from export.linting.rules import POOR, SUPPORTED, UNKNOWN, UNSUPPORTED

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.collections import LineCollection  # noqa: E402
from matplotlib.patches import Patch, Rectangle  # noqa: E402

if TYPE_CHECKING:
    from export.lint import Report

COLOURS = {SUPPORTED: "#8fbf8f", POOR: "#e8c547", UNSUPPORTED: "#d1495b", UNKNOWN: "#8e7cc3"}
COLUMNS = 38  # steps of depth in one band; the graph wraps like text
LANES = 8  # nodes of one depth; more are stacked in the next columns
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


def places(model: onnx.ModelProto, shown: set[int]) -> dict[int, tuple[int, int]]:
    """Node -> (column, lane): columns by the longest path from the inputs, split where one holds more than LANES."""
    depth: dict[str, int] = {}
    rows: dict[int, list[int]] = {}
    for index, node in enumerate(model.graph.node):
        here = max((depth.get(name, 0) for name in node.input), default=0)
        for out in node.output:
            depth[out] = here + (index in shown)
        if index in shown:
            rows.setdefault(here, []).append(index)
    found, column = {}, 0
    for level in sorted(rows):
        for i, index in enumerate(rows[level]):
            found[index] = (column + i // LANES, i % LANES)
        column += (len(rows[level]) - 1) // LANES + 1
    return found


def draw(model: onnx.ModelProto, report: "Report", path: Path) -> None:
    """Write the picture. Raises UserError for a suffix that it cannot write."""
    if Path(path).suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(
            f"--picture {path}: cannot draw this kind of file; choose .png, .svg or .pdf"
        )
    verdicts = {f.index: f for f in report.findings}
    at = places(model, set(verdicts))
    bands = max((column for column, _ in at.values()), default=0) // COLUMNS + 1
    lanes = [
        1 + max((lane for c, lane in at.values() if c // COLUMNS == band), default=0)
        for band in range(bands)
    ]
    tops = [sum(n + 1.0 for n in lanes[:band]) for band in range(bands)]

    def corner(index: int) -> tuple[float, float]:
        column, lane = at[index]
        return column % COLUMNS, tops[column // COLUMNS] + lane

    height = max(3.0, 0.42 * (sum(lanes) + bands) + 1.2)
    figure, axes = pyplot.subplots(figsize=(22, height), dpi=100)
    axes.add_collection(
        LineCollection(list(_edges(model, at, corner)), colors="#999999", linewidths=0.5, zorder=1)
    )
    for index, finding in verdicts.items():
        x, y = corner(index)
        axes.add_patch(
            Rectangle(
                (x, y),
                0.9,
                0.7,
                facecolor=COLOURS[finding.verdict],
                edgecolor="#444444",
                linewidth=0.4,
                zorder=2,
            )
        )
        axes.text(
            x + 0.45,
            y + 0.36,
            SHORT.get(finding.op, finding.op)[:9],
            fontsize=6.2,
            ha="center",
            va="center",
            zorder=3,
            color="white" if finding.verdict in (UNSUPPORTED, UNKNOWN) else "#222222",
        )
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
    axes.set_xlim(-0.5, COLUMNS + 0.5)
    axes.set_ylim(sum(lanes) + bands, -0.5)
    axes.axis("off")
    key = {".png": "Software"}.get(Path(path).suffix.lower(), "Creator")
    with replacing(Path(path)) as partial:
        figure.savefig(partial, bbox_inches="tight", metadata={key: MADE_BY})
    pyplot.close(figure)


def _edges(model: onnx.ModelProto, at: dict[int, tuple[int, int]], corner):
    """Lines within a band; what crosses into another is left out, as it would run over everything."""
    made: dict[str, int] = {}
    for index, node in enumerate(model.graph.node):
        source = next((made[n] for n in node.input if n in made), None)
        for name in node.input:
            if (
                index in at
                and name in made
                and at[made[name]][0] // COLUMNS == at[index][0] // COLUMNS
            ):
                (x0, y0), (x1, y1) = corner(made[name]), corner(index)
                yield [(x0 + 0.9, y0 + 0.35), (x1, y1 + 0.35)]
        if index in at or source is not None:
            made.update(dict.fromkeys(node.output, index if index in at else source))
