"""What was learned, as pictures: curves of losses and learning rates, and samples, by step."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from compress.core import tracks
from compress.core.folders import partial_of

WIDTH, HEIGHT = 240, 60  # of a curve's picture, in its own units
MOST_POINTS = 400  # of a curve; more are thinned out evenly
MOST_PICTURES = 3  # of one piece of work: the first, the last, and those evenly between
NO_CURVES = ("step", "seconds")


@dataclass(frozen=True)
class Curve:
    """One value by step.

    Attributes:
        name: Of the value, such as `l1` or `lr`.
        line: Points of an SVG polyline in WIDTH x HEIGHT.
        first: The first step.
        last: The last step.
        low: The lowest value, as text; `high` and `end` likewise.
    """

    name: str
    line: str
    first: int
    last: int
    low: str
    high: str
    end: str


@dataclass(frozen=True)
class Work:
    """One pass or stage that learned.

    Attributes:
        name: Such as `2 distill`.
        curves: In the order of appearance.
        pictures: (step, uint8 [H, W, 3]) of some samples, the first step first.
    """

    name: str
    curves: list[Curve]
    pictures: list[tuple[int, np.ndarray]]


def learned(folder: Path, ledger: dict[str, Any] | None = None) -> list[Work]:
    """What the tracks of a run or training hold, also of one that is going on.

    Args:
        folder: A run directory, or the working folder of a training.
        ledger: Of the run: passes that came from the cache have their losses there.
    """
    found = []
    for place in sorted((folder / tracks.FOLDER).glob("*")):
        curves = _curves(tracks.read_rows(place))
        pictures = _some(tracks.pictures(place))
        if curves or pictures:
            found.append(Work(place.name.replace("_", " "), curves, pictures))
    numbers = {work.name.partition(" ")[0] for work in found}
    for number, entry in enumerate((ledger or {}).get("passes", []), 1):
        log = (entry.get("figures") or {}).get("log")
        if isinstance(log, list) and log and str(number) not in numbers:
            found.append(Work(f"{number} {entry['pass']['pass']}", _curves(log), []))
    return found


def place_of(folder: Path) -> Path:
    """The folder itself, or that of a run that is not finished yet."""
    partial = partial_of(folder)
    return folder if (folder / tracks.FOLDER).is_dir() or not partial.is_dir() else partial


def _curves(rows: list[dict[str, float]]) -> list[Curve]:
    points: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in NO_CURVES and np.isfinite(value):
                points.setdefault(name, []).append((int(row["step"]), float(value)))
    return [_curve(name, found) for name, found in points.items()]


def _curve(name: str, points: list[tuple[int, float]]) -> Curve:
    stride = -(-len(points) // MOST_POINTS)
    kept = [*points[:-1:stride], points[-1]]
    steps = [step for step, _ in points]
    values = [value for _, value in points]
    low, high = min(values), max(values)
    across = max(steps[-1] - steps[0], 1)
    up = (high - low) or 1.0
    line = " ".join(
        f"{(step - steps[0]) / across * WIDTH:.1f},{HEIGHT - (value - low) / up * HEIGHT:.1f}"
        for step, value in kept
    )
    shown = [f"{value:.4g}" for value in (low, high, values[-1])]
    return Curve(name, line, steps[0], steps[-1], *shown)


def _some(files: list[tuple[int, Path]]) -> list[tuple[int, np.ndarray]]:
    """The pictures that are shown, as far as they can be read."""
    if not files:
        return []
    wanted = np.linspace(0, len(files) - 1, min(MOST_PICTURES, len(files))).round().astype(int)
    found = []
    for step, file in (files[i] for i in wanted):
        with Image.open(file) as image:
            found.append((step, np.asarray(image.convert("RGB"))))
    return found
