"""Saving and loading models: one safetensors file whose header says what it is. No pickle.

The header holds the source and the passes, and that is the structure. Loading builds the source on
the meta device, converts it by every pass and assigns the saved tensors.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import BaseModel

from compress.core.config import choose, validate
from compress.core.errors import UserError
from compress.core.headers import WRITE_AGAIN, read_config, read_configs, read_metadata
from compress.core.hub import FORM, local_file
from compress.core.plugins import Extended, subclass_problem
from compress.core.tensors import read_tensors
from compress.core.weight_file import write_tensors
from compress.families import FAMILIES
from compress.model.passes import Pass
from compress.model.source import Source
from compress.model.sr_model import SRModel
from compress.passes import PASSES

FORMAT = "diffusion-sr-compress/1"
MODEL_FILE = "model.safetensors"
# Ours, and those of other packages.
ALL_SOURCES: Extended[type[Source]] = Extended(
    "sources", FAMILIES, subclass_problem(Source, "family")
)
ALL_PASSES: Extended[type[Pass]] = Extended("passes", PASSES, subclass_problem(Pass, "pass_"))
SHOWN = 60  # characters of a foreign format's name in a sentence
# What torch, diffusers and the passes raise where a structure makes no sense.
STRUCTURE = (
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
)


def parse_source(data: dict, where: str = "source") -> Source:
    """The config of a source model from a recipe's `source` mapping.

    Args:
        data: What the recipe says; its `family` chooses the config.
        where: What begins the sentence of an error.

    Raises:
        UserError: The family, a key or a value is wrong.
    """
    return validate(choose(ALL_SOURCES, "family", data, where), data, where)


def parse_pass(data: dict, where: str) -> Pass:
    """The config of a pass from one entry of a recipe's `passes`.

    Args:
        data: What the recipe says; its `pass` chooses the config.
        where: What begins the sentence of an error.

    Raises:
        UserError: The name, a key or a value is wrong.
    """
    return validate(choose(ALL_PASSES, "pass", data, where), data, where)


def dump(config: BaseModel) -> dict:
    """A config as a recipe writes it, defaults included."""
    return config.model_dump(mode="json", by_alias=True)


def package_of(config: Source | Pass) -> str:
    """The other package that a source or pass is of, with its version; empty for ours."""
    if isinstance(config, Source):
        return ALL_SOURCES.version(config.family)
    return ALL_PASSES.version(str(dump(config)["pass"]))


def convert_all(source: Source, passes: list[Pass]) -> SRModel:
    """The structure of a compressed model, on the meta device."""
    model = source.build()
    for step in passes:
        step.convert(model)
    return model


def save_model(
    model: SRModel,
    path: Path,
    source: Source,
    passes: list[Pass],
    dtype: torch.dtype | None = None,
    notes: dict[str, str] | None = None,
) -> None:
    """Write `model` under `path`. Equal models give equal bytes.

    Args:
        model: The model with its values.
        path: The weight file; its folder must exist.
        source: The config that `model` was built by.
        passes: The configs that it was converted by, in their order.
        dtype: Store floating-point tensors in this type, narrower than they are computed in.
        notes: More entries for the header.

    Raises:
        UserError: A value is not finite.
        OSError: The disk is full, or `path` cannot be written.
    """
    header = {
        "format": FORMAT,
        "source": json.dumps(dump(source.saved())),
        "passes": json.dumps([dump(p) for p in passes]),
        **(notes or {}),
    }
    write_tensors(path, model.state_dict(), header, dtype)


def model_path(path: str | Path) -> Path:
    """The weight file that a RUN directory or MODEL file argument names, or a name of the hub.

    Raises:
        UserError: There is none.
    """
    path = local_file(path, MODEL_FILE)
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"{path}: no compressed model here; give a run directory with {MODEL_FILE}, such a "
            f"file, or the name of one on the hub, {FORM}"
        )
    return file


def read_header(path: str | Path) -> tuple[Source, list[Pass]]:
    """Source and passes of a saved model, without reading its tensors; no other file is opened.

    Raises:
        UserError: The header is missing, malformed, of another format, or past the bounds of
            headers.py.
    """
    file = model_path(path)
    header = read_metadata(file)
    if header.get("format") != FORMAT:
        shown = repr(header.get("format"))[:SHOWN]
        raise UserError(
            f"{file}: was not written by this toolkit (format {shown}, expected {FORMAT})"
        )
    source_data = read_config(header, "source", file)
    passes_data = read_configs(header, "passes", file)
    with _structure_errors(file, "its header holds no source and passes of this toolkit"):
        source = parse_source(source_data, f"{file}: source")
        passes = [
            parse_pass(data, f"{file}: passes.{index}") for index, data in enumerate(passes_data)
        ]
        if source.needs_file:
            raise UserError(f"{file}: its header names another file to build from; {WRITE_AGAIN}")
    return source, passes


@contextmanager
def _structure_errors(file: Path, what: str) -> Iterator[None]:
    """Turn what a senseless structure raises into a UserError that names the file."""
    try:
        yield
    except UserError as error:
        sentence = str(error)
        if not sentence.startswith(str(file)):
            sentence = f"{file}: {sentence}"
        raise UserError(sentence) from None
    except STRUCTURE as error:
        raise UserError(f"{file}: {what} ({type(error).__name__}); {WRITE_AGAIN}") from None


def read_structure(path: str | Path) -> tuple[Source, list[Pass], SRModel]:
    """Source, passes and the model on the meta device that the header of a saved model describes.

    Raises:
        UserError: As `read_header`, and for passes that do not act on that source.
    """
    source, passes = read_header(path)
    with _structure_errors(
        model_path(path),
        f"its header describes no model of family '{source.family}' that can be built",
    ):
        return source, passes, convert_all(source, passes)


def load_model(path: str | Path) -> SRModel:
    """Load a run directory, model file or name of the hub, on the CPU, for inference.

    The structure comes from the header, the values from the tensors.

    Raises:
        UserError: As `read_structure`, and for tensors that do not fit the structure.
    """
    _, _, model = read_structure(path)
    read_tensors(model, model_path(path))
    return model.eval().requires_grad_(False)
