"""One page of a person's own photographs by several models, with a slider over any two of them.

A column is a model, a run or a folder of pictures that are there already. Everything is inside the
page.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from compress.core.errors import UserError
from compress.core.hub import FORM, hub_name
from compress.core.image import SUFFIXES, to_uint8
from compress.photographs import reading
from compress.photographs.problem import PhotographError
from compress.process.resample import SCALE, upsample
from compress.recipe.checkpoint import MODEL_FILE, load_model
from eval.data.pairing import restored_images
from eval.reporting import pages
from eval.reporting.blocks import environment
from eval.reporting.pictures import Crop

PAGE = "compare.html"
PLAIN = "photograph, bicubic"  # the column that is the photograph itself, enlarged
MOST_PIXELS = 2**20  # of a photograph; its result has 16 times as many, and stands in the page
REMEDY = "cut out the part that matters, or pass --max-pixels {pixels}, and the page becomes large"

Say = Callable[[str], None]
Result = Callable[[Path, np.ndarray], np.ndarray]  # photograph, its pixels -> uint8 [4h, 4w, 3]


@dataclass(frozen=True)
class Asked:
    """What a command line names.

    Attributes:
        columns: Models, runs and folders of pictures, by their labels.
        photographs: The photographs, by their names.
    """

    columns: dict[str, Path]
    photographs: dict[str, Path]


def sort_out(words: list[Path]) -> Asked:
    """Tell columns from photographs: a picture's file is a photograph, all else is a column.

    Raises:
        UserError: Something is not there, one of the two kinds is missing, or two have one name.
    """
    for word in words:
        if hub_name(word) is None and not word.exists():
            raise UserError(
                f"{word}: no such model, run, folder of pictures or photograph, and no name of the "
                f"hub ({FORM})"
            )
    photographs = [word for word in words if word.is_file() and word.suffix.lower() in SUFFIXES]
    columns = [word for word in words if word not in photographs]
    if not columns:
        raise UserError("nothing to compare; name models, runs or folders of pictures as well")
    if not photographs:
        raise UserError("no photograph was named; add one or more picture files, such as photo.jpg")
    return Asked(
        _by_name(columns, _label, "models, runs or folders"),
        _by_name(photographs, lambda path: path.stem, "photographs"),
    )


def _by_name(paths: list[Path], name_of: Callable[[Path], str], what: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        name = name_of(path)
        if name in found or name == PLAIN:
            other = found.get(name, f"the column '{PLAIN}'")
            raise UserError(f"{other} and {path}: two {what} called '{name}'; rename one of them")
        found[name] = path
    return found


def _label(path: Path) -> str:
    """A run or folder by its name, a model's file by its own, or its run's where all have one.

    A model of the hub goes by its repository's name, or by its folder in that.
    """
    name = hub_name(path)
    if name is not None:
        return name.label
    whole = path.resolve()
    if path.is_dir():
        return whole.name
    return whole.parent.name if path.name == MODEL_FILE else path.stem


def write_page(asked: Asked, folder: Path, max_pixels: int = MOST_PIXELS, say: Say = print) -> Path:
    """Write the page, whole or not at all.

    Args:
        asked: What is compared, on which photographs.
        folder: Where the page goes.
        max_pixels: Largest width times height of a photograph.
        say: Is told each picture that is made.

    Returns:
        The page's path.

    Raises:
        UserError: A photograph, a model or a picture cannot be used, or sizes differ.
    """
    photographs = {name: _read(path, max_pixels) for name, path in asked.photographs.items()}
    results = {
        label: _result_of(path, set(photographs), say) for label, path in asked.columns.items()
    }
    crops = [Crop(name, {PLAIN: _enlarged(pixels)}) for name, pixels in photographs.items()]
    for label, result in results.items():  # column by column: no two models are in memory
        make = result()
        for crop in crops:
            name = crop.name
            pixels = make(asked.photographs[name], photographs[name])
            _check_size(crop, asked.columns[label], pixels)
            crop.versions[label] = pixels
    labels = [PLAIN, *asked.columns]
    page = (
        environment()
        .get_template("side_by_side.html.j2")
        .render(
            title=" · ".join(asked.columns),
            crops=crops,
            labels=labels,
            first=labels[-2],
            second=labels[-1],
        )
    )
    return pages.write(page, folder / PAGE)


def _read(path: Path, max_pixels: int) -> np.ndarray:
    """uint8 [h, w, 3] in sRGB, upright."""
    try:
        return reading.read(path, convert=True, max_pixels=max_pixels, remedy=REMEDY).pixels
    except PhotographError as error:
        raise UserError(str(error)) from None


def _enlarged(pixels: np.ndarray) -> np.ndarray:
    return to_uint8(upsample(_tensor(pixels)).clamp(0, 1))


def _tensor(pixels: np.ndarray) -> torch.Tensor:
    """uint8 [h, w, 3] -> float [1, 3, h, w] in [0, 1]."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).unsqueeze(0).float() / 255


def _result_of(path: Path, names: set[str], say: Say) -> Callable[[], Result]:
    """What gives a column's pictures; a folder that lacks one is refused before any work."""
    if path.is_dir() and not (path / MODEL_FILE).is_file():
        files = _pictures(path, names)
        return lambda: lambda photograph, _: _read_result(files[photograph.stem])
    return lambda: _upscaler(path, say)


def _pictures(folder: Path, names: set[str]) -> dict[str, Path]:
    """The file of each photograph's result in a folder."""
    found, problems = restored_images(folder, names)
    for name in sorted(names):
        if name in problems:
            raise UserError(problems[name])
        if name not in found:
            raise UserError(
                f"{folder}: holds no picture {name}.png or {name}_x{SCALE}.png, and is no run; "
                "add it, or leave the folder or the photograph out"
            )
    return found


def _read_result(path: Path) -> np.ndarray:
    try:
        return reading.read(path, convert=True).pixels
    except PhotographError as error:
        raise UserError(str(error)) from None


def _upscaler(path: Path, say: Say) -> Result:
    model = load_model(path)

    def upscale(photograph: Path, pixels: np.ndarray) -> np.ndarray:
        say(f"{photograph} by {path}")
        return model.upscale_bytes(_tensor(pixels))

    return upscale


def _check_size(crop: Crop, column: Path, pixels: np.ndarray) -> None:
    """Raise UserError where a picture has another size than the photograph, enlarged."""
    height, width = crop.versions[PLAIN].shape[:2]
    if pixels.shape[:2] != (height, width):
        raise UserError(
            f"{column}: its picture of '{crop.name}' is {pixels.shape[1]}x{pixels.shape[0]}, and "
            f"the photograph enlarged {width}x{height}; all must have one size, {SCALE} times the "
            "photograph's"
        )
