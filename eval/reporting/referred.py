"""The photographs that a model referred to, cut out for its report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.core.errors import UserError
from compress.core.image import read_image, to_uint8
from compress.recipe.run_files import read_references

MOST = 12  # images in a report


@dataclass(frozen=True)
class Patch:
    """A patch of a photograph.

    Attributes:
        pixels: uint8 [height, width, 3].
        file: The photograph's name.
        similarity: To the small image, in -1 to 1; None where nothing was asked for.
    """

    pixels: np.ndarray
    file: str
    similarity: float | None


@dataclass(frozen=True)
class Referred:
    """An image and what it was restored with."""

    image: str
    patches: list[Patch]


def referred(names: list[str], folder: Path) -> list[Referred]:
    """The references of images, as far as their photographs are there.

    Args:
        names: The images, of which the first MOST count.
        folder: Of the evaluation.
    """
    rows = read_references(folder)
    found = [Referred(name, _patches(rows.get(name, []))) for name in names[:MOST]]
    return [one for one in found if one.patches]


def _patches(rows: list[dict[str, Any]]) -> list[Patch]:
    patches = []
    for row in rows:
        file = Path(row["file"])
        try:
            image = to_uint8(read_image(file, convert=True))
        except UserError:  # the photograph is not on this machine any more
            continue
        top, left = row["top"], row["left"]
        pixels = image[top : top + row["height"], left : left + row["width"]]
        if pixels.shape[:2] == (row["height"], row["width"]):
            patches.append(Patch(pixels, file.name, row["similarity"]))
    return patches
