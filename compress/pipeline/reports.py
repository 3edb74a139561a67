"""What a finished run says of itself: curve, report.html, card.md and a few lines of text."""

from dataclasses import replace
from pathlib import Path

from compress.cost import phones
from compress.cost.count import measure
from compress.pipeline.summary import summary
from compress.recipe.checkpoint import convert_all
from compress.recipe.recipe import Recipe
from eval.reporting import curve, points, rundir
from eval.reporting.card import write_card
from eval.reporting.report import collect, write_report

# The curve is drawn of the first that has a value for all models of a run.
CURVE_METRICS = ("musiq", "lpips", "ssim", "psnr")


def write_reports(recipe: Recipe, record: dict, exported: dict, results: dict, run: Path) -> str:
    """Write curve, report.html and card.md.

    Args:
        recipe: Of the run.
        record: Its ledger.
        exported: From `export_all`.
        results: From `evaluate_both`.
        run: The run directory.

    Returns:
        The summary for the terminal.
    """
    png, which = draw_curve(recipe, record, results, run)
    lines = summary(recipe, record, exported, results)
    predicted = phones.as_lines(measure(convert_all(recipe.source, recipe.passes)), recipe.source)
    lines += [f"  {line}" for line in predicted]
    directory = rundir.read(run)
    figures = collect(directory, predicted)
    if png is None:
        figures.notes.append(which)
    write_report(run, figures)
    write_card(directory, run, lines)
    return "\n".join([*lines, f"  {which}"])


def draw_curve(recipe: Recipe, record: dict, results: dict, run: Path) -> tuple[Path | None, str]:
    """Draw curve.png and curve.svg of the first data set that has a metric of CURVE_METRICS.

    Returns:
        The picture, None where no metric was measured for both models; and a sentence on it.
    """
    for data, result in results.items():
        for metric in CURVE_METRICS:
            source_value = result["source"].get(metric)
            if source_value is None or result["compressed"].get(metric) is None:
                continue
            selection = points.select([run], metric, data)
            source_size = record["cost"]["before"]["param_equivalents"] / 1e6
            own = [
                replace(selection.points[0], label=recipe.name),
                points.Point("source", source_size, source_value, True),
            ]
            selection = replace(selection, points=own + selection.points[1:])
            png, _ = curve.draw(selection, run / "curve.png")
            return png, f"curve: {metric} on {data}"
    return None, f"no curve: none of {', '.join(CURVE_METRICS)} has a value for both models"
