"""One self-contained HTML page about a run: figures, pictures and the ledger, with nothing loaded from elsewhere."""

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from eval.metrics import METRICS

UNITS = {"params": "", "param_equivalents": "", "bytes": "B", "macs_paper": "MACs", "macs_full": "MACs"}
HEADINGS = {"params": "parameters", "param_equivalents": "fp32-equivalent parameters", "bytes": "file size",
            "macs_paper": "MACs (conv + linear)", "macs_full": "MACs (with attention)", "psnr_db": "PSNR, dB",
            "seconds": "time, s"}


@dataclass
class ReportData:
    """What a report shows. Tables are lists of rows, {column: value}; columns stand in the order of appearance.

    `cost_rows`: the source model first, then one row a pass; keys `stage`, and of UNITS those that are known.
    `components`: one row a component of the compressed model, same keys. `metrics`: model -> metric -> mean or None.
    `blanks`: metric -> why it has no value. `parity`: rows with `probe` and `psnr_db` (compressed against source).
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


def write_report(run_dir: Path, figures: ReportData) -> Path:
    """Write `run_dir`/report.html, whole or not at all, and return its path."""
    environment = Environment(loader=PackageLoader("eval", "."), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
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
        for key in UNITS:
            if before.get(key) and after.get(key):
                found.append({"title": heading(key), "value": cell(after[key], key),
                              "detail": f"{cell(before[key], key)} before, ÷ {before[key] / after[key]:.2f}"})
    worst = min((row for row in figures.parity if row.get("psnr_db") is not None), key=lambda row: row["psnr_db"],
                default=None)
    if worst:
        found.append({"title": "PSNR against the source model", "value": f"{worst['psnr_db']:.2f} dB",
                      "detail": f"lowest of {len(figures.parity)}: {worst.get('probe', '')}"})
    return found


def cell(value: object, key: str = "") -> str:
    """A value as a reader wants it: 1.30 M, 4.20 MB, 0.7341, a dash for None."""
    if value is None:
        return "—"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _nested(value) if isinstance(value, dict | list) else str(value)
    if key in UNITS:
        for divisor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= divisor:
                return f"{value / divisor:.2f} {prefix}{UNITS[key]}"
        return f"{value:g} {UNITS[key]}".strip()
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if abs(value) < 1e-2 else f"{value:.4f}"


def heading(key: str) -> str:
    return HEADINGS.get(key, key.replace("_", " "))


def columns(rows: list[dict]) -> list[str]:
    """Every key of the rows, once, in the order of appearance."""
    return list(dict.fromkeys(key for row in rows for key in row))


def picture(image: np.ndarray) -> Markup:
    """uint8 or float-in-[0, 1] [H, W, 3] -> PNG data URI."""
    image = np.asarray(image)
    if image.dtype != np.uint8:
        image = np.uint8(np.rint(np.clip(image, 0, 1) * 255))
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", optimize=True)
    return _uri(stream.getvalue())


def _nested(value: dict | list) -> str:
    items = (f"{k}: {cell(v)}" for k, v in value.items()) if isinstance(value, dict) else (cell(v) for v in value)
    return ", ".join(items)


def _uri(png: bytes) -> Markup:
    return Markup("data:image/png;base64," + base64.b64encode(png).decode())


def _arrow(metric: str) -> str:
    return "" if metric not in METRICS else "↑" if METRICS[metric].higher else "↓"
