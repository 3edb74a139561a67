"""What a study keeps of its points elsewhere: in a folder, or by fsspec in a store for objects.

There is `study.json` and `points.json` as in the study's folder, and for each measured point
`point_N/model.safetensors`, which loads alone, and `point_N/result.json`.
"""

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.core.errors import UserError, first_line
from compress.core.files import replacing
from compress.model.sr_model import SRModel
from compress.recipe.checkpoint import MODEL_FILE, save_model
from compress.recipe.recipe import Recipe
from compress.search.results import Result
from compress.search.settings import SETTINGS
from compress.search.snapshot import POINTS

_LOG = logging.getLogger(__name__)
RESULT_FILE = "result.json"
FORMS = "a folder, or a URL that fsspec knows, such as s3://BUCKET/NAME or gs://BUCKET/NAME"


def is_url(place: str) -> bool:
    """Whether a place is in a store, and no path."""
    return "://" in place


@dataclass(frozen=True)
class Artefacts:
    """A place for files.

    Attributes:
        place: As typed: a folder or a URL.
        files: The file system of fsspec that has it.
        root: Its name there.
    """

    place: str
    files: Any
    root: str

    def put(self, file: Path, name: str) -> None:
        """Copy a file there under a name, whole or not at all."""
        target = f"{self.root.rstrip('/')}/{name}"
        self.files.makedirs(target.rpartition("/")[0], exist_ok=True)
        if is_url(self.place):
            self.files.put_file(str(file), target)  # a store shows an object once it is whole
            return
        with replacing(Path(target)) as partial:
            partial.write_bytes(file.read_bytes())

    def names(self) -> list[str]:
        """What lies there, hidden files aside; nothing where there is no such place yet."""
        try:
            found = self.files.ls(self.root, detail=False)
        except FileNotFoundError:
            return []
        names = [str(path).rstrip("/").rpartition("/")[2] for path in found]
        return [name for name in names if not name.startswith(".")]

    def read(self, name: str) -> bytes:
        """What has that name."""
        return bytes(self.files.cat_file(f"{self.root.rstrip('/')}/{name}"))

    def get(self, name: str, file: Path) -> None:
        """Copy what has that name to a file."""
        self.files.get_file(f"{self.root.rstrip('/')}/{name}", str(file))

    def mirror(self, folder: Path) -> None:
        """Copy what a study is of, and its points so far. One that fails is told, and no more."""
        try:
            for name in (SETTINGS, POINTS):
                if (folder / name).is_file():
                    self.put(folder / name, name)
        except Exception as error:  # each store has errors of its own
            _LOG.warning("--artefacts %s: is not up to date (%s)", self.place, first_line(error))

    def keep(self, number: int, recipe: Recipe, model: SRModel, found: Result) -> None:
        """Keep a measured point: its model and its result. One that fails is told, and no more."""
        try:
            with tempfile.TemporaryDirectory() as place:
                weights, said = Path(place) / MODEL_FILE, Path(place) / RESULT_FILE
                save_model(model, weights, recipe.source, recipe.passes)
                said.write_text(json.dumps(found, indent=1), encoding="utf-8")
                for file in (weights, said):
                    self.put(file, f"point_{number}/{file.name}")
        except Exception as error:  # each store has errors of its own
            _LOG.warning(
                "--artefacts %s: point %d is not kept (%s)", self.place, number, first_line(error)
            )


def open_artefacts(place: str, what: str) -> Artefacts:
    """A place for files.

    Args:
        place: A folder or a URL.
        what: What names it in a sentence, such as `--artefacts`.

    Raises:
        UserError: fsspec does not know such URLs, or lacks the package for them.
    """
    from fsspec.core import url_to_fs  # torch's own dependency

    try:
        files, root = url_to_fs(place if is_url(place) else str(Path(place).absolute()))
    except ImportError as error:
        raise UserError(
            f"{what} {place}: needs a package that is not installed ({first_line(error)})"
        ) from None
    except ValueError as error:
        raise UserError(f"{what} {place}: {first_line(error)}; give {FORMS}") from None
    return Artefacts(place, files, root)


def check_artefacts(artefacts: Artefacts, folder: Path) -> None:
    """Write the settings of a study there, before anything is computed.

    Raises:
        UserError: It cannot be written, or it has another study or somebody else's files.
    """
    settings = (folder / SETTINGS).read_bytes()
    try:
        there = artefacts.names()
        other = SETTINGS in there and artefacts.read(SETTINGS) != settings
        if not there:
            artefacts.put(folder / SETTINGS, SETTINGS)
    except Exception as error:  # each store has errors of its own
        raise UserError(
            f"--artefacts {artefacts.place}: cannot be written ({first_line(error)}); give {FORMS}"
        ) from None
    if other:
        raise UserError(
            f"--artefacts {artefacts.place}: has another study; give a place of its own"
        )
    if there and SETTINGS not in there:
        raise UserError(
            f"--artefacts {artefacts.place}: holds other files and no study; give another place"
        )


@contextmanager
def study_folder(place: str) -> Iterator[Path]:
    """The folder of a study; of a URL a temporary copy of what `mirror` wrote there.

    Raises:
        UserError: The URL has no study.
    """
    if not is_url(place):
        yield Path(place)
        return
    artefacts = open_artefacts(place, "study")
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base) / artefacts.root.rstrip("/").rpartition("/")[2]
        folder.mkdir()
        try:
            for name in (SETTINGS, POINTS):
                artefacts.get(name, folder / name)
        except Exception as error:  # each store has errors of its own
            raise UserError(
                f"{place}: has no {SETTINGS} and {POINTS} of a study ({first_line(error)}); give "
                "the place of --artefacts"
            ) from None
        yield folder
