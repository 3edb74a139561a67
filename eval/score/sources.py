"""What is measured: a model, its file or run directory, or a folder of restored images."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from compress.core.code_version import code_version
from compress.core.errors import UserError
from compress.core.hub import FORM, hub_name
from compress.core.image import SUFFIXES
from compress.model.sr_model import SRModel
from compress.process.knobs import OUTPUTS
from compress.recipe.checkpoint import MODEL_FILE, model_path
from eval.data.dataset import DataSet
from eval.data.pairing import Found, Problems, restored_images
from eval.metric.weight_files import digest
from eval.score.options import EvaluateOptions
from eval.score.restoring import ModelRestorer, Restore

EXAMPLES = 3  # names of images in a message


@dataclass(frozen=True)
class Source:
    """Where restored images come from: one of `model`, `restored` and `restore`.

    Attributes:
        model: The file of a model, which each process loads.
        model_key: Identity of what it computes.
        restored: Files of restored images, by name.
        restore: A function that restores, in this process alone.
        problems: A sentence for each image of the data that has no restored image or too many.
    """

    model: Path | None = None
    model_key: str | None = None
    restored: Found | None = None
    restore: Restore | None = None
    problems: Problems = field(default_factory=dict)


def find_source(given: SRModel | str | Path, data: DataSet, options: EvaluateOptions) -> Source:
    """What `evaluate` was given to measure on `data`.

    Raises:
        UserError: It is not there, it is no model and no folder of restored images, or the data
            has nothing to restore.
    """
    if isinstance(given, SRModel):
        _check_small_images(data)
        if options.processes > 1:
            raise UserError(
                "several processes need a model file or run directory that each can load; "
                "give its path"
            )
        if options.knob != OUTPUTS:
            raise UserError(
                f"--knob {options.knob} needs a model file or run directory; give its path"
            )
        return Source(restore=ModelRestorer(given, options.device, options.given_references))
    path = Path(given) if hub_name(given) is None else model_path(given)
    if not path.exists():
        raise UserError(
            f"{path}: no such run directory, model file or folder of restored images, and no name "
            f"of the hub ({FORM})"
        )
    if path.is_dir() and not model_file(path).is_file():
        if options.given_references:
            raise UserError(
                f"--references: {path} holds restored images, which no model is to make; leave it "
                "out"
            )
        if options.knob != OUTPUTS:
            raise UserError(
                f"--knob {options.knob}: {path} holds restored images, whose model is not there; "
                "leave it out"
            )
        return _restored_folder(path, data)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        raise UserError(
            f"{path}: is an image; give the folder of restored images, a run directory or a model"
        )
    _check_small_images(data)
    file = model_file(path)
    return Source(model=file, model_key=key_of_file(file))


def model_file(source: Path) -> Path:
    """The model's file of a run directory; `source` itself where it is a file."""
    if source.is_dir():
        return source / MODEL_FILE
    return source


def key_of_file(path: Path) -> str:
    """Identity of what a model file computes: its content and this code."""
    return hashlib.sha256((digest(path) + code_version()).encode()).hexdigest()[:32]


def _check_small_images(data: DataSet) -> None:
    if any(pair.lr is None for pair in data.pairs):
        raise UserError(f"data '{data.name}' has no small images to restore; give --lr FOLDER")


def _restored_folder(folder: Path, data: DataSet) -> Source:
    """Restored images by name, and what is wrong with those that do not fit the data."""
    wanted = {pair.name for pair in data.pairs}
    found, doubled = restored_images(folder, wanted | data.problems.keys())
    problems = {name: why for name, why in doubled.items() if name in wanted}
    if not wanted & (found.keys() | problems.keys()):
        some = ", ".join(sorted(wanted)[:EXAMPLES])
        raise UserError(
            f"{folder}: holds no image of data '{data.name}' ({some} …); "
            "give the folder with images of the same names"
        )
    for name in sorted(wanted - found.keys() - problems.keys()):
        problems[name] = (
            f"{folder}: holds no restored image of this name (data '{data.name}' has one); add it"
        )
    # With --limit nobody is asked about the rest of a full folder.
    is_whole = len(data.pairs) + len(data.problems) == data.total
    left = sorted(found.keys() - wanted - data.problems.keys()) if is_whole else []
    for name in left:
        problems[name] = (
            f"{found[name]}: data '{data.name}' has no image of this name; rename or remove it"
        )
    return Source(restored={name: found[name] for name in found.keys() & wanted}, problems=problems)
