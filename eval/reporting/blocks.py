"""The templates of reports with what they call: cells, headings, arrows and pictures."""

import base64
import io

import numpy as np
from jinja2 import Environment
from markupsafe import Markup
from PIL import Image

from eval.metric.names import in_order, is_metric, metric_of
from eval.reporting import pages
from eval.reporting.cells import cell, columns, heading
from eval.reporting.notes import plural
from eval.reporting.pictures import Crop


def environment() -> Environment:
    """The templates of report.html and compare.html."""
    found = pages.environment()
    found.filters |= {"cell": cell, "heading": heading, "picture": picture}
    found.globals |= {
        "columns": columns,
        "arrow": _arrow,
        "higher": _is_higher_better,
        "directions": _directions,
        "shape": _shape,
        "plural": plural,
    }
    return found


def picture(image: np.ndarray) -> Markup:
    """An image as the data URI of a PNG.

    Args:
        image: [H, W, 3], uint8 or float in [0, 1].
    """
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8:
        pixels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    stream = io.BytesIO()
    # `optimize` takes far longer, for few bytes.
    Image.fromarray(pixels).save(stream, "PNG")
    return Markup("data:image/png;base64," + base64.b64encode(stream.getvalue()).decode())


def _shape(crop: Crop) -> str:
    """Width over height, as a style sheet's aspect-ratio."""
    height, width = next(iter(crop.versions.values())).shape[:2]
    return f"{width}/{height}"


def _arrow(metric: str) -> str:
    return metric_of(metric).arrow if is_metric(metric) else ""


def _is_higher_better(metric: str) -> bool:
    return metric_of(metric).higher if is_metric(metric) else True


def _directions(crops: list[Crop]) -> dict[str, bool]:
    """Metric -> whether higher is better, of the metrics that crops have."""
    rows = [row for crop in crops for row in crop.scores.values()]
    names = in_order(name for row in rows for name in row)
    return {name: metric_of(name).higher for name in names}
