"""How each metric's values lie over the images of a data set."""

from statistics import median
from typing import Any

from eval.metric.names import in_order
from eval.reporting.rundir import Scores

MARGIN = 1.0  # per cent of the scale at either end


def spread(scores: dict[str, Scores]) -> list[dict[str, Any]]:
    """The distribution of each metric that has two or more values.

    Args:
        scores: Model -> image -> metric -> value.

    Returns:
        A dictionary a metric: its `metric`, `low`, `high`, and `models`, which stand on one scale.
        Each model has `label`, `median`, the median's place `at`, and `dots` of its images.
        Places are per cent of the scale.
    """
    found = []
    rows = [row for images in scores.values() for row in images.values()]
    for metric in in_order(metric for row in rows for metric in row):
        values = _values(metric, scores)
        everything = [value for images in values.values() for value in images.values()]
        if len(everything) < 2:
            continue
        low, high = min(everything), max(everything)
        models = [_model(label, images, low, high) for label, images in values.items()]
        found.append({"metric": metric, "low": low, "high": high, "models": models})
    return found


def _values(metric: str, scores: dict[str, Scores]) -> dict[str, dict[str, float]]:
    """Model -> image -> value, of the models and images that have one."""
    found: dict[str, dict[str, float]] = {}
    for model, images in scores.items():
        for name, row in images.items():
            value = row.get(metric)
            if value is not None:
                found.setdefault(model, {})[name] = value
    return found


def _model(label: str, images: dict[str, float], low: float, high: float) -> dict[str, Any]:
    middle = median(images.values())
    return {
        "label": label,
        "median": middle,
        "at": _place(middle, low, high),
        "dots": [
            {"at": _place(value, low, high), "image": name, "value": value}
            for name, value in images.items()
        ],
    }


def _place(value: float, low: float, high: float) -> float:
    """Where a value stands between `low` and `high`, in per cent of the scale."""
    if high <= low:
        return 50.0
    return round(MARGIN + (100 - 2 * MARGIN) * (value - low) / (high - low), 2)
