"""What a training begins with: random values, those of its own source, or of another nano."""

from pathlib import Path

import torch

from compress.core.errors import UserError
from compress.core.hub import local_file
from compress.core.machine import in_memory_format
from compress.core.tensors import read_tensors
from compress.families.osediff import ASSET
from compress.model.source import Source
from compress.model.sr_model import SRModel
from compress.recipe.checkpoint import MODEL_FILE, load_model, read_header

EMBEDDED = {"osediff_nano": ASSET}  # words that stand for a weight file of the package


def start_file(start: str | None) -> Path | None:
    """The weight file that `start` of a recipe names; None for random values."""
    if start is None:
        return None
    return EMBEDDED.get(start) or local_file(start, MODEL_FILE)


def _check_scale(file: Path, other: Source, source: Source) -> None:
    """Refuse a file of the same source whose latents are larger or smaller."""
    scales = [getattr(one, "latent_scale", 1.0) for one in (other, source)]
    if other.family == source.family and scales[0] != scales[1]:
        raise UserError(
            f"start: {file} has a latent_scale of {scales[0]:g}, the recipe {scales[1]:g}; set "
            f"source.latent_scale={scales[0]:g}"
        )


@torch.no_grad()
def begin_with(file: Path, source: Source, model: SRModel) -> None:
    """Give a model of `source` the values of a weight file, in place.

    Args:
        file: Of the same source, or of one whose networks that source takes over.
        source: Of the recipe.
        model: Has random values.

    Raises:
        UserError: The file cannot be read or does not fit.
    """
    if not file.is_file():
        raise UserError(f"start: {file} does not exist; give a weight file of this toolkit")
    other, passes = read_header(file)
    _check_scale(file, other, source)
    if other.family == source.family and not passes:
        read_tensors(model, file)
    else:
        where = f"start: {file}"
        if passes:
            raise UserError(f"{where} is of a compressed model; give one without passes")
        source.take_over(model, load_model(file), where)
    in_memory_format(model, torch.channels_last)
