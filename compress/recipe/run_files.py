"""Reading the files of a run directory. A file that was cut off or edited is one sentence."""

import csv
from pathlib import Path
from typing import Any

from compress.core.config import read_yaml
from compress.core.errors import UserError
from compress.core.json_files import check_shape, read_json
from compress.process.knobs import OUTPUTS
from compress.recipe.run_shapes import (
    Averages,
    Figures,
    Ledger,
    Manifest,
    Number,
    PartLedger,
    RecipeFile,
    Reference,
    Scores,
    Strengths,
)

LEDGER, RECIPE = "ledger.json", "recipe.yaml"
RUN_AGAIN = "the run directory is damaged: run it again, or copy it again whole"
EVALUATE_AGAIN = "it is damaged: evaluate the run again with python -m eval.run"
EXPORT_AGAIN = "the folder is damaged: export it again with python -m export.run"
# keys of averages.json and columns of metrics.csv that are no metrics
NOT_METRICS = ("images", "data", "protocol", "blank", "problems", "notes", "speedup")
STRENGTHS = "strength.json"  # of an evaluation at several strengths
REFERENCES = "references.json"  # of an evaluation with references
NOT_SCORES = ("image", "data", "protocol")
MOST_REASON = 120  # characters of a library's message in a sentence


def read_ledger(run: Path) -> dict[str, Any]:
    """ledger.json of a run directory.

    Raises:
        UserError: It is missing or damaged, as of every other function here.
    """
    return read_json(run / LEDGER, "the ledger of a run", Ledger, RUN_AGAIN)


def read_cost(run: Path) -> dict[str, Number]:
    """The cost of the compressed model in ledger.json, as far as it is there and a number."""
    ledger = read_json(run / LEDGER, "the ledger of a run", PartLedger, RUN_AGAIN)
    after = ledger.get("cost", {}).get("after", {})
    return {name: value for name, value in after.items() if type(value) in (int, float)}


def read_figures(file: Path) -> dict[str, list]:
    """figures.json: rows of parity and latency, and the files of a target."""
    return read_json(file, "the figures of an exported target", Figures, RUN_AGAIN)


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of an exported folder."""
    return read_json(
        folder / "manifest.json", "the manifest of an exported folder", Manifest, EXPORT_AGAIN
    )


def read_averages(folder: Path) -> dict[str, Any]:
    """averages.json of one evaluation: each metric a number or None, and what NOT_METRICS names."""
    file = folder / "averages.json"
    what = "the averages of an evaluation"
    averages = read_json(file, what, Averages, EVALUATE_AGAIN)
    metrics = {name: value for name, value in averages.items() if name not in NOT_METRICS}
    remedy = f"these are {what}, and {EVALUATE_AGAIN}"
    check_shape(metrics, dict[str, Number | None], str(file), remedy)
    return averages


def strengths_file(knob: str = OUTPUTS) -> str:
    """The name of the file of an evaluation at several strengths of a knob."""
    return STRENGTHS if knob == OUTPUTS else f"strength_{knob}.json"


def read_strengths(folder: Path, knob: str = OUTPUTS) -> list[dict[str, float]]:
    """An evaluation at several strengths: means by metric, and "strength"; empty where missing.

    A metric without a value is left out.

    Args:
        folder: Of the evaluation.
        knob: One of `compress.process.knobs.KNOBS`.
    """
    file = folder / strengths_file(knob)
    if not file.is_file():
        return []
    rows = read_json(file, "an evaluation at several strengths", Strengths, EVALUATE_AGAIN)["rows"]
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def read_references(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """references.json of one evaluation: the patches by image; empty where it is missing."""
    file = folder / REFERENCES
    if not file.is_file():
        return {}
    what = "the references of an evaluation"
    return read_json(file, what, dict[str, list[Reference]], EVALUATE_AGAIN)


def read_fidelity(folder: Path) -> dict[str, float]:
    """fidelity.json of one evaluation, PSNR in dB by image; empty where it was not measured."""
    file = folder / "fidelity.json"
    if not file.is_file():
        return {}
    return read_json(file, "PSNR by image", dict[str, Number], EVALUATE_AGAIN)


def read_recipe(run: Path) -> tuple[dict[str, Any], str]:
    """recipe.yaml of a run directory: its content and its text."""
    file = run / RECIPE
    try:
        recipe = read_yaml(file)
    except (UnicodeDecodeError, RecursionError):
        raise UserError(
            f"{file}: is no YAML in UTF-8, or nested too deep; this is the recipe of a run, and "
            f"{RUN_AGAIN}"
        ) from None
    check_shape(recipe, RecipeFile, str(file), f"this is the recipe of a run, and {RUN_AGAIN}")
    return recipe, file.read_text(encoding="utf-8-sig", errors="replace")


def read_scores(file: Path) -> Scores:
    """metrics.csv of one evaluation: {image: {metric: value or None}}."""
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            return dict(_score_row(row) for row in csv.DictReader(stream))
    except (OSError, ValueError, KeyError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)[:MOST_REASON]
        raise UserError(
            f"{file}: cannot be read as scores by image ({reason}); {EVALUATE_AGAIN}"
        ) from None


def _score_row(row: dict[Any, Any]) -> tuple[str, dict[str, float | None]]:
    """The image of one row and its scores. Raises ValueError for any other row."""
    # csv puts fields past the last column under None, and None into columns without a field.
    if row.get("image") is None or None in row or None in row.values():
        raise ValueError("a row has not as many fields as there are columns, 'image' among them")
    scores: dict[str, float | None] = {}
    for name, text in row.items():
        if name not in NOT_SCORES:
            scores[name] = float(text) if text else None
    return row["image"], scores
