"""What compress/sensitivity.py measured, as a picture: a row for every layer, a column for every width."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from compress.core.files import MADE_BY, replacing

INK = "#1f2937"


def short(layer: str) -> str:
    """A layer's name without the words that all of its component share."""
    part, _, rest = layer.partition(".")
    return (
        rest.removeprefix(f"{part}.").removeprefix("unet.").replace("transformer_blocks", "blocks")
    )


def draw(found: dict, path: Path) -> Path:
    """A heat map a component, side by side: PSNR to float in dB with that layer alone quantised, dark is harmful.

    Widths that the integer program chose are framed.
    """
    rows = found["rows"]
    widths = list(dict.fromkeys(row["width"] for row in rows))
    widths.sort(key=lambda w: np.median([row["psnr"] for row in rows if row["width"] == w]))
    values = {(row["layer"], row["width"]): row["psnr"] for row in rows}
    parts: dict[str, list[str]] = {}
    for layer in dict.fromkeys(row["layer"] for row in rows):
        parts.setdefault(layer.partition(".")[0], []).append(layer)
    pins = found.get("choice", {}).get("pins", {})
    chosen = {name: f"W{w['weights']}A{w['activations']}" for name, w in pins.items()}
    longest = max(map(len, parts.values()))
    figure = Figure(
        figsize=(5.4 * len(parts), 1.6 + 0.17 * longest),
        dpi=110,
        facecolor="white",
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    low, high = np.percentile(list(values.values()), [1, 99])
    for column, (part, layers) in enumerate(parts.items()):
        axes = figure.add_subplot(1, len(parts), column + 1)
        grid = np.array([[values[layer, w] for w in widths] for layer in layers])
        image = axes.imshow(
            grid,
            aspect="auto",
            cmap="magma",
            vmin=low,
            vmax=high,
            interpolation="nearest",
            extent=(-0.5, len(widths) - 0.5, len(layers) - 0.5, -0.5),
        )
        axes.set_ylim(longest - 0.5, -0.5)  # one height of a row in all components
        axes.spines[:].set_visible(False)
        for y, layer in enumerate(layers):
            for x, width in enumerate(widths):
                bright = (grid[y, x] - low) / max(high - low, 1e-9) > 0.6
                axes.text(
                    x,
                    y,
                    f"{grid[y, x]:.1f}",
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color="black" if bright else "white",
                )
                if chosen.get(layer) == width:
                    axes.add_patch(
                        Rectangle(
                            (x - 0.48, y - 0.44),
                            0.96,
                            0.88,
                            fill=False,
                            edgecolor="#22d3ee",
                            lw=1.3,
                        )
                    )
        axes.set_yticks(
            range(len(layers)), [short(layer) for layer in layers], fontsize=6.5, color=INK
        )
        axes.set_xticks(range(len(widths)), widths, fontsize=9, color=INK)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.set_title(
            f"{part}, {len(layers)} layers", fontsize=11, fontweight="bold", color=INK, loc="left"
        )
    bar = figure.colorbar(image, ax=figure.axes, location="bottom", shrink=0.4, aspect=40, pad=0.01)
    bar.set_label(
        "PSNR to the float model's image in dB, this layer alone quantised; dark: costs most"
        + ("; framed: chosen" if chosen else ""),
        fontsize=9,
        color=INK,
    )
    with replacing(path) as partial:
        figure.savefig(partial, metadata={"Software": MADE_BY})
    return path
