"""The sensitivities of all layers as a picture: a row for every layer, a column for every width."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from compress.core.files import MADE_BY, replacing

INK = "#1f2937"
FRAME = "#22d3ee"
SMALL, MIDDLE, LARGE = 6.5, 9, 11  # points
WIDTH_INCHES = 5.4  # of a component
ROW_INCHES = 0.17
HEAD_INCHES = 1.6
PERCENTILES = (1, 99)  # the ends of the colours
BRIGHT = 0.6  # of the range of colours, from which on text is black


def short(layer: str) -> str:
    """A layer's name without the words that all of its component share."""
    part, _, rest = layer.partition(".")
    name = (rest or part).removeprefix(f"{part}.").removeprefix("unet.")
    return name.replace("transformer_blocks", "blocks")


def draw(measured: dict, path: Path) -> Path:
    """Draw a heat map for each component, side by side.

    It shows the PSNR to float in dB with that layer alone quantised; dark is harmful. Widths that
    the integer program chose are framed.

    Args:
        measured: "rows" from `measure_layers`, and perhaps "choice" with its "pins".
        path: The picture.

    Returns:
        `path`.
    """
    rows = measured["rows"]
    psnr = {(row["layer"], row["width"]): row["psnr"] for row in rows}
    widths = _sorted_widths(rows)
    parts = _layers_by_component(rows)
    pins = measured.get("choice", {}).get("pins", {})
    chosen = {name: f"W{pin['weights']}A{pin['activations']}" for name, pin in pins.items()}
    longest = max(len(layers) for layers in parts.values())
    figure = Figure(
        figsize=(WIDTH_INCHES * len(parts), HEAD_INCHES + ROW_INCHES * longest),
        dpi=110,
        facecolor="white",
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    low, high = np.percentile(list(psnr.values()), PERCENTILES)
    for column, (part, layers) in enumerate(parts.items(), 1):
        axes = figure.add_subplot(1, len(parts), column)
        grid = np.array([[psnr[layer, width] for width in widths] for layer in layers])
        image = _draw_grid(axes, grid, low, high)
        axes.set_ylim(longest - 0.5, -0.5)  # one height of a row in all components
        _write_values(axes, grid, low, high)
        for y, layer in enumerate(layers):
            if chosen.get(layer) in widths:
                _frame(axes, widths.index(chosen[layer]), y)
        _label(axes, part, layers, widths)
    bar = figure.colorbar(image, ax=figure.axes, location="bottom", shrink=0.4, aspect=40, pad=0.01)
    meaning = "PSNR to the float model's image in dB, this layer alone quantised; dark: costs most"
    if chosen:
        meaning += "; framed: chosen"
    bar.set_label(meaning, fontsize=MIDDLE, color=INK)
    with replacing(path) as partial:
        figure.savefig(partial, metadata={"Software": MADE_BY})
    return path


def _sorted_widths(rows: list[dict]) -> list[str]:
    """The widths, the most harmful first."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["width"], []).append(row["psnr"])
    return sorted(values, key=lambda width: np.median(values[width]))


def _layers_by_component(rows: list[dict]) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for layer in dict.fromkeys(row["layer"] for row in rows):
        parts.setdefault(layer.partition(".")[0], []).append(layer)
    return parts


def _draw_grid(axes: Axes, grid: np.ndarray, low: float, high: float) -> AxesImage:
    layers, widths = grid.shape
    image = axes.imshow(
        grid,
        aspect="auto",
        cmap="magma",
        vmin=low,
        vmax=high,
        interpolation="nearest",
        extent=(-0.5, widths - 0.5, layers - 0.5, -0.5),
    )
    axes.spines[:].set_visible(False)
    return image


def _write_values(axes: Axes, grid: np.ndarray, low: float, high: float) -> None:
    for (y, x), value in np.ndenumerate(grid):
        bright = (value - low) / max(high - low, 1e-9) > BRIGHT
        axes.text(
            x,
            y,
            f"{value:.1f}",
            ha="center",
            va="center",
            fontsize=SMALL,
            color="black" if bright else "white",
        )


def _frame(axes: Axes, x: int, y: int) -> None:
    axes.add_patch(Rectangle((x - 0.48, y - 0.44), 0.96, 0.88, fill=False, edgecolor=FRAME, lw=1.3))


def _label(axes: Axes, part: str, layers: list[str], widths: list[str]) -> None:
    names = [short(layer) for layer in layers]
    axes.set_yticks(range(len(layers)), names, fontsize=SMALL, color=INK)
    axes.set_xticks(range(len(widths)), widths, fontsize=MIDDLE, color=INK)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    title = f"{part}, {len(layers)} layers"
    axes.set_title(title, fontsize=LARGE, fontweight="bold", color=INK, loc="left")
