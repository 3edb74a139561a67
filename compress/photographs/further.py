"""The further images of a model that takes more than the photograph: a file or a folder of each."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from . import reading
from .problem import PhotographError, shown

Size = Sequence[int]  # height and width in pixels
Images = dict[str, np.ndarray]  # name -> float32 [1, 3, height, width] in [0, 1]


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Add --image, which is the same in every program."""
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="NAME=FILE|FOLDER",
        help="a further image of a model that takes some: one file for all photographs, or a "
        "folder of files that are named as the photographs",
    )


class FurtherImages:
    """Which further images belong to which photograph.

    Args:
        given: Of the command line, NAME=FILE or NAME=FOLDER each.
        sizes: Of the images that the model takes, by their names.
        photographs: What is upscaled.

    Raises:
        PhotographError: An image is missing, is not taken, or is given twice; a file for all
            photographs is none or has another size; a folder has none for a photograph, or several.
    """

    def __init__(self, given: list[str], sizes: Mapping[str, Size], photographs: list[Path]):
        self.sizes = sizes
        self.of_all: Images = {}
        self.files: dict[tuple[str, Path], Path] = {}
        places = _places(given)
        for name in places:
            if name not in sizes:
                takes = f"it takes {', '.join(sizes)}" if sizes else "it takes none"
                raise PhotographError(f"--image {name}: this model takes no such image; {takes}")
        for name, (height, width) in sizes.items():
            if name not in places:
                raise PhotographError(
                    f"this model also takes the image '{name}', {width}x{height} pixels; give it "
                    f"with --image {name}=FILE"
                )
            place = places[name]
            if place.is_dir():
                files = sorted(path for path in place.iterdir() if path.is_file())
                for photograph in photographs:
                    self.files[name, photograph] = _matching(files, photograph, f"{name}={place}")
            else:
                self.of_all[name] = self._read(name, place)

    def of(self, photograph: Path) -> Images:
        """The further images of a photograph.

        Raises:
            PhotographError: A file is no picture, or has another size than the model takes.
        """
        images = dict(self.of_all)
        for name in self.sizes:
            if name not in images:
                images[name] = self._read(name, self.files[name, photograph])
        return images

    def _read(self, name: str, file: Path) -> np.ndarray:
        height, width = self.sizes[name]
        pixels = reading.read(file, convert=True).pixels
        if pixels.shape[:2] != (height, width):
            raise PhotographError(
                f"{shown(file)} has {pixels.shape[1]}x{pixels.shape[0]} pixels and the image "
                f"'{name}' has {width}x{height}; resize it"
            )
        return pixels.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)


def _places(given: list[str]) -> dict[str, Path]:
    """File or folder of each name."""
    places: dict[str, Path] = {}
    for entry in given:
        name, _, place = entry.partition("=")
        if not name or not place:
            raise PhotographError(f"--image {entry}: write NAME=FILE or NAME=FOLDER")
        if name in places:
            raise PhotographError(f"--image {name} is given twice; give one file or folder")
        places[name] = Path(place)
    return places


def _matching(files: list[Path], photograph: Path, option: str) -> Path:
    """The file that is named as the photograph, by its full name or else without its suffix."""
    for file in files:
        if file.name == photograph.name:
            return file
    alike = [file for file in files if file.stem == photograph.stem]
    if len(alike) > 1:
        raise PhotographError(
            f"--image {option}: {alike[0].name} and {alike[1].name} are both for "
            f"{shown(photograph)}; keep one"
        )
    if not alike:
        raise PhotographError(
            f"--image {option}: the folder holds no file for {shown(photograph)}; call it "
            f"{photograph.stem} with any suffix of a picture"
        )
    return alike[0]
