"""One self-contained HTML page about a run: figures, pictures and the ledger, with nothing loaded from elsewhere."""

import base64
import io
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from eval.metrics import METRICS

TILES = ("param_equivalents", "bytes", "macs_paper", "macs_equivalent")
HEADINGS = {"params": "parameters", "param_equivalents": "fp32-equivalent parameters", "bytes": "weights",
            "file_bytes": "file", "container_bytes": "weights in 8-bit containers",
            "peak_activation_bytes": "peak activations", "macs_paper": "MACs (conv + linear)",
            "macs_full": "MACs (with attention)", "macs_equivalent": "MACs, fp32-equivalent", "psnr_db": "PSNR, dB",
            "self_db": "own noise, dB", "tolerance_db": "tolerance, dB", "seconds": "time, s"}


@dataclass
class ReportData:
    """What a report shows. Tables are lists of rows, {column: value}; columns stand in the order of appearance.

    `cost_rows`: the source model first, then one row a pass; the totals of compress.cost, and a name.
    `components`: one row a component, same keys. `metrics`: model -> metric -> mean or None. `blanks`: metric -> why
    it has no value. `parity`: rows with `file`, `probe` and `psnr_db` (exported file against the compressed model;
    None is an output that is not finite). `fidelity_db`: PSNR of the compressed model's images against the source's.
    `latency`: rows that say where, how, and `measured` or `predicted`. `crops`: (image name, {label: [H, W, 3] uint8,
    or float in [0, 1]}). `ledger`: one row a pass. `curve_png`: the drawing of eval.curve, if there is one.
    """

    name: str
    recipe_yaml: str
    cost_rows: list[dict] = field(default_factory=list)
    components: list[dict] = field(default_factory=list)
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    blanks: dict[str, str] = field(default_factory=dict)
    parity: list[dict] = field(default_factory=list)
    latency: list[dict] = field(default_factory=list)
    crops: list[tuple[str, dict[str, np.ndarray]]] = field(default_factory=list)
    curve_png: Path | None = None
    ledger: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    fidelity_db: float | None = None


def write_report(run_dir: Path, figures: ReportData) -> Path:
    """Write `run_dir`/report.html, whole or not at all, and return its path."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"cell": cell, "heading": heading, "picture": picture}
    environment.globals |= {"columns": columns, "arrow": _arrow}
    page = environment.get_template("report.html.j2").render(
        data=figures, tiles=tiles(figures), curve=figures.curve_png and _uri(Path(figures.curve_png).read_bytes()))
    path = Path(run_dir) / "report.html"
    partial = path.with_name(".report.html.partial")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def tiles(figures: ReportData) -> list[dict[str, str]]:
    """The headline figures: {title, value, detail}; only those whose numbers are there."""
    found = []
    if figures.cost_rows:
        before, after = figures.cost_rows[0], figures.cost_rows[-1]
        for key in TILES:
            if before.get(key) and after.get(key):
                found.append({"title": heading(key), "value": cell(after[key], key),
                              "detail": f"{cell(before[key], key)} before, ÷ {before[key] / after[key]:.2f}"})
    if figures.fidelity_db is not None:
        found.append({"title": "PSNR against the source model", "value": f"{figures.fidelity_db:.2f} dB",
                      "detail": "between the 8-bit images of both"})
    if figures.parity:
        worst = min(figures.parity, key=lambda row: -math.inf if row["psnr_db"] is None else row["psnr_db"])
        found.append({"title": "Worst parity of an exported file",
                      "value": "not finite" if worst["psnr_db"] is None else f"{worst['psnr_db']:.1f} dB",
                      "detail": " · ".join(str(worst[key]) for key in ("file", "probe") if key in worst)})
    return found


def cell(value: object, key: str = "") -> str:
    """A value as a reader wants it: 1.30 M, 4.20 MB, 0.7341, a dash for None."""
    if value is None:
        return "—"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _nested(value) if isinstance(value, dict | list) else str(value)
    unit = _unit(key)
    if unit is not None:
        for divisor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= divisor:
                return f"{value / divisor:.2f} {prefix}{unit}"
        return f"{value:g} {unit}".strip()
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if abs(value) < 1e-2 else f"{value:.4f}"


def _unit(key: str) -> str | None:
    """The unit of a column whose numbers are shortened to k, M, G, T; None for any other column."""
    if key.startswith("param"):
        return ""
    return "MACs" if key.startswith("macs") else "B" if key.endswith("bytes") else None


def heading(key: str) -> str:
    return HEADINGS.get(key, key.replace("_", " "))


def columns(rows: list[dict]) -> list[str]:
    """Every key of the rows, once, in the order of appearance; tables within a table are left out."""
    return list(dict.fromkeys(key for row in rows for key, value in row.items() if not _is_table(value)))


def picture(image: np.ndarray) -> Markup:
    """uint8 or float-in-[0, 1] [H, W, 3] -> PNG data URI."""
    image = np.asarray(image)
    if image.dtype != np.uint8:
        image = np.uint8(np.rint(np.clip(image, 0, 1) * 255))
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", optimize=True)
    return _uri(stream.getvalue())


def _nested(value: dict | list) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{heading(k)}: {cell(v, k)}" for k, v in value.items() if not _is_table(v))
    return ", ".join(cell(v) for v in value)


def _is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _uri(png: bytes) -> Markup:
    return Markup("data:image/png;base64," + base64.b64encode(png).decode())


def _arrow(metric: str) -> str:
    return "" if metric not in METRICS else "↑" if METRICS[metric].higher else "↓"
