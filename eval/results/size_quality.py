"""The picture of size against quality, from rows of results: recipes and embedded models."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from eval.reporting import curve
from eval.reporting.board import Board, System, published_systems
from eval.reporting.points import Selection, choose, until
from eval.results.datafile import Data

PICTURE = Path("docs") / "images" / "size_quality.png"
DATASET, PROTOCOL = "RealSR", "crop"
METRIC = "lpips-squeeze"
LARGEST = 5.0  # million fp32 equivalents; published systems beyond it are named below the picture
# A recipe of somebody else's network, which is a peer; its source stands among the published ones.
NAMES = {"spandrel_w8a8": "GAN 1.21M W8A8"}


def selection(data: Mapping[str, Data]) -> Selection | None:
    """What stands in the picture; None where no recipe is measured.

    Args:
        data: Files of results by name: `recipes`, and `models` where it is there.
    """
    if "recipes" not in data:
        return None
    systems = [*_recipes(data), *_models(data)]
    board = Board(DATASET, PROTOCOL, [*systems, *published_systems(DATASET, PROTOCOL)])
    return until(choose(board, METRIC, "size"), LARGEST)


def _recipes(data: Mapping[str, Data]) -> list[System]:
    systems = []
    for row in data["recipes"]["rows"]:
        name = row["recipe"].strip("`")
        systems.append(_system(NAMES.get(name, name), row["equivalents_m"], row[METRIC]))
    return systems


def _models(data: Mapping[str, Data]) -> list[System]:
    rows = data["models"]["rows"] if "models" in data else []
    return [
        _system(row["model"].strip("`"), row["equivalents_m"], row[METRIC])
        for row in rows
        if "equivalents_m" in row
    ]


def _system(label: str, size: float, quality: float) -> System:
    return System(label, True, {"size": size}, {METRIC: quality})


def write(chosen: Selection, file: Path) -> None:
    """Draw the picture; it says itself of which points it is."""
    curve.save_png(curve.picture(chosen), file, _digest(chosen))


def is_current(chosen: Selection, file: Path) -> bool:
    """Whether a picture is of these points."""
    if not file.is_file():
        return False
    with Image.open(file) as picture:
        return picture.info.get("Comment") == _digest(chosen)


def _digest(chosen: Selection) -> str:
    return hashlib.sha256(repr(chosen).encode()).hexdigest()
