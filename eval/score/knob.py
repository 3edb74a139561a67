"""What the knob of realism does to the metrics: an evaluation at each of several strengths."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.core.errors import UserError
from compress.core.files import write_text
from compress.model.sr_model import SRModel
from compress.process.knobs import OUTPUTS
from compress.process.strength import is_strength
from compress.recipe.run_files import NOT_METRICS, strengths_file
from eval.data.dataset import DataSet
from eval.score.benchmark import evaluate
from eval.score.options import EvaluateOptions

SAME = ("images", "data", "protocol")  # of every strength alike
Rows = list[dict[str, float | None]]


def read_strengths(text: str) -> tuple[float, ...]:
    """The strengths of --strengths, ascending, without repetitions.

    Raises:
        UserError: One is no number from 0 to 1.
    """
    found = set()
    for word in text.split(","):
        try:
            value = float(word)
        except ValueError:
            value = float("nan")
        if not is_strength(value):
            raise UserError(f"--strengths '{word}': choose numbers from 0 to 1, as in 0,0.5,1")
        found.add(value)
    return tuple(sorted(found))


def evaluate_strengths(
    model: SRModel | str | Path,
    data: DataSet,
    options: EvaluateOptions,
    strengths: tuple[float, ...],
) -> tuple[dict[str, Any], Rows]:
    """Evaluate a model as it is, and at several strengths of one of its knobs.

    For `outputs` networks run once, else once for each strength.

    Args:
        model: As `evaluate` takes it.
        data: With small images, which are blended in.
        options: Its `out` gets strength.json besides, or strength_KNOB.json.
        strengths: From 0 to 1.

    Returns:
        What `evaluate` returns at full strength, and for each strength the means of the metrics,
        under "strength" the strength.

    Raises:
        UserError: As `evaluate`; also where the data has no small images.
    """
    if options.knob != OUTPUTS:
        full = evaluate(model, data, options)
        made = (replace(options, out=None, save=None, strength=s) for s in strengths)
        rows = [_row(evaluate(model, data, chosen), chosen) for chosen in made]
    else:
        full, rows = _blends(model, data, options, strengths)
    if options.out is not None:
        record = {**{key: full[key] for key in SAME}, "knob": options.knob, "rows": rows}
        file = Path(options.out) / strengths_file(options.knob)
        write_text(file, json.dumps(record, indent=1) + "\n")
    return full, rows


def _blends(
    model: SRModel | str | Path,
    data: DataSet,
    options: EvaluateOptions,
    strengths: tuple[float, ...],
) -> tuple[dict[str, Any], Rows]:
    """As `evaluate_strengths`, of the knob that every model has; networks run once."""
    with tempfile.TemporaryDirectory() as temporary:
        restored = Path(temporary if options.save is None else options.save)
        full = evaluate(model, data, replace(options, save=restored))
        rows: Rows = []
        for strength in strengths:
            chosen = replace(options, out=None, save=None, strength=strength, references=())
            rows.append(_row(evaluate(restored, data, chosen), chosen))
    return full, rows


def _row(means: dict[str, Any], options: EvaluateOptions) -> dict[str, float | None]:
    metrics = {key: value for key, value in means.items() if key not in NOT_METRICS}
    return {"strength": options.strength, **metrics}


def text_of(rows: Rows) -> str:
    """The means by strength as a table for a terminal."""
    names = [name for name in rows[0] if name != "strength"]
    lines = ["  strength" + "".join(f"{name:>15}" for name in names)]
    for row in rows:
        cells = ["—" if row[name] is None else f"{row[name]:.4f}" for name in names]
        lines.append(f"  {row['strength']:8g}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)
