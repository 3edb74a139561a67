"""What the knob of realism does to the metrics: an evaluation at each of several strengths."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.core.errors import UserError
from compress.core.files import write_text
from compress.model.sr_model import SRModel
from compress.process.strength import is_strength
from compress.recipe.run_files import NOT_METRICS, STRENGTHS
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
    """Evaluate a model as it is, and its result at several strengths; networks run once.

    Args:
        model: As `evaluate` takes it.
        data: With small images, which are blended in.
        options: Its `out` gets strength.json besides.
        strengths: From 0 to 1.

    Returns:
        What `evaluate` returns at full strength, and for each strength the means of the metrics,
        under "strength" the strength.

    Raises:
        UserError: As `evaluate`; also where the data has no small images.
    """
    with tempfile.TemporaryDirectory() as temporary:
        restored = Path(temporary if options.save is None else options.save)
        full = evaluate(model, data, replace(options, save=restored))
        rows: Rows = []
        for strength in strengths:
            chosen = replace(options, out=None, save=None, strength=strength, references=())
            means = evaluate(restored, data, chosen)
            metrics = {key: value for key, value in means.items() if key not in NOT_METRICS}
            rows.append({"strength": strength, **metrics})
    if options.out is not None:
        record = {**{key: full[key] for key in SAME}, "rows": rows}
        write_text(Path(options.out) / STRENGTHS, json.dumps(record, indent=1) + "\n")
    return full, rows


def text_of(rows: Rows) -> str:
    """The means by strength as a table for a terminal."""
    names = [name for name in rows[0] if name != "strength"]
    lines = ["  strength" + "".join(f"{name:>15}" for name in names)]
    for row in rows:
        cells = ["—" if row[name] is None else f"{row[name]:.4f}" for name in names]
        lines.append(f"  {row['strength']:8g}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)
