"""python -m eval.report RUN: report.html of a run; python -m eval.report RUN RUN… -o compare.html: many side by side.

Each is one page with everything inside it: pictures with a slider, worst first; every image's scores; cost, parity,
ledger.
"""

import argparse
import base64
import io
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np
from jinja2 import Environment
from markupsafe import Markup
from PIL import Image

from compress.core.errors import UserError, command
from compress.core.files import check_file
from eval.curve import chart_data
from eval.metric.metrics import METRICS
from eval.reporting import pages, pictures, points, rundir
from eval.reporting.notes import notes, plural
from eval.reporting.pictures import HIGH, LOW, Crop
from eval.reporting.rundir import Evaluation, Run, Scores

TILES = ("param_equivalents", "bytes", "macs_paper", "macs_equivalent")
COSTS = (
    "params",
    "param_equivalents",
    "bytes",
    "macs_paper",
    "macs_equivalent",
    "macs_full",
    "peak_activation_bytes",
)
HEADINGS = {
    "params": "parameters",
    "param_equivalents": "fp32-equivalent parameters",
    "bytes": "weights",
    "file_bytes": "file",
    "container_bytes": "weights in 8-bit containers",
    "peak_activation_bytes": "peak activations",
    "macs_paper": "MACs (conv + linear)",
    "macs_full": "MACs (with attention)",
    "macs_equivalent": "MACs, fp32-equivalent",
    "psnr_db": "PSNR, dB",
    "self_db": "own noise, dB",
    "own_db": "own rounding, dB",
    "tolerance_db": "tolerance, dB",
    "seconds": "time, s",
    "median_ms": "median, ms",
    "min_ms": "least, ms",
    "ratio": "speed against the first",
    "size_ratio": "size against the first",
}


@dataclass
class ReportData:
    """What a report shows. Tables are lists of rows, {column: value}; columns stand in the order of appearance.

    `cost_rows`: the source model first, then one row a pass; the totals of compress.cost.count, and a name.
    `components`: one row a component, same keys. `metrics`: model -> metric -> mean or None. `blanks`: metric -> why
    it has no value. `scores`: model -> image -> metric -> value, the compressed model last. `crops`: the worst images.
    `parity`: rows with `file`, `probe` and `psnr_db` (exported file against the compressed model; None is an output
    that is not finite). `fidelity_db`: PSNR of the compressed model's images against the source's. `latency`: rows of
    export.latency, measured. `predicted`: latency on phones, lines of text. `ledger`: one row a pass. `chart`: what
    curve.chart_data gives, if any.
    """

    name: str
    recipe_yaml: str
    cost_rows: list[dict] = field(default_factory=list)
    components: list[dict] = field(default_factory=list)
    dataset: str = ""
    protocol: str = ""
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    blanks: dict[str, str] = field(default_factory=dict)
    scores: dict[str, Scores] = field(default_factory=dict)
    parity: list[dict] = field(default_factory=list)
    latency: list[dict] = field(default_factory=list)
    crops: list[Crop] = field(default_factory=list)
    chart: dict | None = None
    ledger: list[dict] = field(default_factory=list)
    predicted: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    fidelity_db: float | None = None


def collect(run: Run, predicted: list[str] | None = None) -> ReportData:
    """What a run directory holds of ReportData; quality is that of its first data set, in the recipe's order.

    `predicted` are lines of predicted latency; left out, they are computed from the model file.
    """
    ledger = [
        {k: v for k, v in entry.items() if k not in ("before", "after")}
        for entry in run.ledger["passes"]
    ]
    figures = ReportData(
        run.name,
        run.recipe_yaml,
        [_shown(row) for row in run.costs()],
        [_shown(row) for row in run.components()],
        parity=run.exported["parity"],
        latency=run.exported["latency"],
        ledger=ledger,
        notes=notes(run.recipe),
        predicted=rundir.predicted(run) if predicted is None else predicted,
    )
    if not run.evaluations:
        figures.notes.append("not evaluated: python -m eval.run RUN --data …")
        return figures
    wanted = [
        str(entry["name"] if isinstance(entry, dict) else entry).lower()
        for entry in run.recipe["eval"]["data"]
    ]
    one = min(
        run.evaluations,
        key=lambda e: wanted.index(e.data.lower()) if e.data.lower() in wanted else len(wanted),
    )
    figures.dataset, figures.protocol, figures.scores = one.data, one.protocol, one.scores
    names = [m for m in METRICS if m in one.averages["compressed"]]
    figures.metrics = {
        model: {m: averages.get(m) for m in names} for model, averages in one.averages.items()
    }
    figures.blanks = one.averages["compressed"]["blank"]
    left_out = one.averages["compressed"].get("problems", {})
    figures.notes += [f"left out: {name}: {why}" for name, why in left_out.items()]
    if one.fidelity:
        figures.fidelity_db = float(np.mean(list(one.fidelity.values())))
    figures.crops = pictures.crops(
        pictures.worst_first(one.scores["compressed"]),
        {model: one.restored(model) for model in one.scores},
        one.scores,
        pictures.data_of(run.recipe, one.data),
    )
    figures.chart = _chart(run, one)
    return figures


def _chart(run: Run, one: Evaluation) -> dict | None:
    """Quality against size: this run, its source, and the published systems of the data set and protocol."""
    board = points.gather([run.path], one.data)
    there = [m for m in pictures.ORDER if m in board.systems[0].y]
    shared = [
        m for m in there if any(m in s.y for s in board.systems[1:])
    ]  # one that others have, too, says more
    if not there or "size" not in board.systems[0].x:
        return None
    systems = [replace(board.systems[0], label=run.name), *board.systems[1:]]
    if "source" in one.averages:
        y = {
            m: one.averages["source"][m]
            for m in METRICS
            if one.averages["source"].get(m) is not None
        }
        systems.insert(
            1,
            points.System(
                "source", True, points.costs(run.ledger["cost"]["before"]), y, "before the passes"
            ),
        )
    return chart_data(replace(board, systems=systems), (shared or there)[0], "size")


def _shown(row: dict) -> dict:
    return {k: v for k, v in row.items() if k in ("after", "model", "name", *COSTS)}


def write_report(run_dir: Path, figures: ReportData) -> Path:
    """Write `run_dir`/report.html, whole or not at all, and return its path."""
    labels = figures.crops[0].versions if figures.crops else {}
    first = next((label for label in ("source", LOW, HIGH) if label in labels), None)
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            title=figures.name,
            data=figures,
            tiles=tiles(figures),
            spread=spread(figures.scores),
            first=first,
            second="compressed",
            metric=pictures.sorting_metric(figures.scores.get("compressed", {})),
            original=HIGH,
        )
    )
    return pages.write(page, Path(run_dir) / "report.html")


def environment() -> Environment:
    """The templates with what they call."""
    found = pages.environment()
    found.filters |= {"cell": cell, "heading": heading, "picture": picture}
    found.globals |= {
        "columns": columns,
        "arrow": _arrow,
        "higher": lambda m: METRICS[m].higher if m in METRICS else True,
        "directions": lambda: {name: metric.higher for name, metric in METRICS.items()},
        "shape": _shape,
        "plural": plural,
    }
    return found


def tiles(figures: ReportData) -> list[dict[str, str]]:
    """The headline figures: {title, value, detail}; only those whose numbers are there."""
    found = []
    if figures.cost_rows:
        before, after = figures.cost_rows[0], figures.cost_rows[-1]
        for key in TILES:
            if before.get(key) and after.get(key):
                found.append(
                    {
                        "title": heading(key),
                        "value": cell(after[key], key),
                        "detail": f"{cell(before[key], key)} before, ÷ {before[key] / after[key]:.2f}",
                    }
                )
    if figures.fidelity_db is not None:
        found.append(
            {
                "title": "PSNR against the source model",
                "value": f"{figures.fidelity_db:.2f} dB",
                "detail": "between the 8-bit images of both",
            }
        )
    compared = [row for row in figures.parity if "psnr_db" in row]
    if compared:
        worst = min(
            compared, key=lambda row: -math.inf if row["psnr_db"] is None else row["psnr_db"]
        )
        found.append(
            {
                "title": "Worst parity of an exported file",
                "value": "not finite" if worst["psnr_db"] is None else f"{worst['psnr_db']:.1f} dB",
                "detail": " · ".join(str(worst[key]) for key in ("file", "probe") if key in worst),
            }
        )
    return found


def spread(scores: dict[str, Scores]) -> list[dict]:
    """How each metric's values lie: models on one scale, positions in per cent of it; metrics with two or more
    values."""
    found = []
    for metric in METRICS:
        values = {
            model: {
                name: row[metric] for name, row in images.items() if row.get(metric) is not None
            }
            for model, images in scores.items()
        }
        values = {model: images for model, images in values.items() if images}
        everything = [v for images in values.values() for v in images.values()]
        if len(everything) < 2:
            continue
        low, high = min(everything), max(everything)

        def at(value: float, low: float = low, high: float = high) -> float:
            return round(1 + 98 * (value - low) / (high - low), 2) if high > low else 50.0

        found.append(
            {
                "metric": metric,
                "low": low,
                "high": high,
                "models": [
                    {
                        "label": model,
                        "median": median(images.values()),
                        "at": at(median(images.values())),
                        "dots": [
                            {"at": at(v), "image": name, "value": v} for name, v in images.items()
                        ],
                    }
                    for model, images in values.items()
                ],
            }
        )
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
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:.4g}"
        if abs(value) < 1e-2
        else f"{value:.4f}"
    )


def _unit(key: str) -> str | None:
    """The unit of a column whose numbers are shortened to k, M, G, T; None for any other column."""
    if key.startswith("param"):
        return ""
    return "MACs" if key.startswith("macs") else "B" if key.endswith("bytes") else None


def heading(key: str) -> str:
    return HEADINGS.get(key, key.replace("_", " "))


def columns(rows: list[dict]) -> list[str]:
    """Every key of the rows, once, in the order of appearance; tables within a table are left out."""
    return list(
        dict.fromkeys(key for row in rows for key, value in row.items() if not _is_table(value))
    )


def picture(image: np.ndarray) -> Markup:
    """uint8 or float-in-[0, 1] [H, W, 3] -> PNG data URI."""
    image = np.asarray(image)
    if image.dtype != np.uint8:
        image = np.uint8(np.rint(np.clip(image, 0, 1) * 255))
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", optimize=True)
    return _uri(stream.getvalue())


def _shape(crop: Crop) -> str:
    height, width = next(iter(crop.versions.values())).shape[:2]
    return f"{width}/{height}"


def _nested(value: dict | list) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{heading(k)}: {cell(v, k)}" for k, v in value.items() if not _is_table(v)
        )
    return ", ".join(cell(v) for v in value)


def _is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _uri(png: bytes) -> Markup:
    return Markup("data:image/png;base64," + base64.b64encode(png).decode())


def _arrow(metric: str) -> str:
    return "" if metric not in METRICS else "↑" if METRICS[metric].higher else "↓"


@command
def main(argv: list[str]) -> int:
    """Write the report of one run, or the comparison of several."""
    from eval.reporting.compare import write_comparison

    parser = argparse.ArgumentParser(
        prog="python -m eval.report", description=__doc__.splitlines()[0]
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories")
    parser.add_argument(
        "-o", "--out", type=Path, help="of several runs: compare.html; of one: RUN/report.html"
    )
    parser.add_argument("--dataset", help="of several runs: which; default: the one that all share")
    args = parser.parse_args(argv)
    if args.out is not None:
        check_file(args.out, "-o", args.runs)
    runs = [rundir.read(path) for path in args.runs]
    if len(runs) == 1 and args.out is None:
        print(f"written: {write_report(args.runs[0], collect(runs[0]))}")
        return 0
    if args.out is None or args.out.suffix != ".html":
        raise UserError(
            "several runs need -o NAME.html for their comparison, such as -o compare.html"
        )
    print(f"written: {write_comparison(runs, args.out, args.dataset)}")
    return 0


if __name__ == "__main__":
    main()
