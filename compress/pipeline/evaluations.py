"""The evaluation of a run: source and compressed model on every data set of its recipe."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from compress.core.code_version import code_version
from compress.core.errors import UserError
from compress.core.files import write_text
from compress.core.hub_config import with_local_files
from compress.core.image import read_image
from compress.data.referring import sentence
from compress.model.references import references_of
from compress.model.sr_model import SRModel
from compress.recipe.checkpoint import MODEL_FILE, dump
from compress.recipe.recipe import NamedData, Recipe
from compress.recipe.run_files import read_averages
from eval.data.dataset import DataSet
from eval.metric.locating import weights_folder
from eval.metric.names import check_names
from eval.reporting.pictures import open_entry
from eval.score.benchmark import evaluate
from eval.score.options import EvaluateOptions
from eval.score.sources import key_of_file

_LOG = logging.getLogger(__name__)

LEAST_ERROR = 1e-10  # mean square error below which images count as equal: 100 dB


def open_all(recipe: Recipe) -> list[DataSet]:
    """The recipe's data sets.

    Raises:
        UserError: A misspelt metric, no folder `iqa_weights`, missing data or data of another kind,
            or two data sets whose results would have one folder.
    """
    check_names(recipe.eval.metrics)
    weights_folder(recipe.eval.iqa_weights, "eval.iqa_weights")
    opened: dict[str, DataSet] = {}
    for index, entry in enumerate(recipe.eval.data):
        try:
            data = _open(entry, recipe.eval.limit)
        except UserError as error:
            raise UserError(f"eval.data.{index}: {error}") from None
        if data.name in opened:
            raise UserError(
                f"eval.data.{index}: the results of two data sets would lie in eval/{data.name}; "
                "rename one of their folders, or evaluate it by python -m eval.run RUN --data … "
                "--name …"
            )
        opened[data.name] = data
    return list(opened.values())


def check_references(recipe: Recipe, model: SRModel) -> None:
    """The references of an evaluation, against the compressed model's structure.

    Raises:
        UserError: One does not exist, or the model takes none.
    """
    if recipe.eval.references:
        try:
            references_of(model, "--references")
            sentence([Path(one) for one in recipe.eval.references])
        except UserError as error:
            raise UserError(f"eval.references: {error}") from None


def _open(entry: str | NamedData, limit: int | None) -> DataSet:
    if isinstance(entry, str):
        return open_entry(entry, limit)
    return open_entry(entry.model_dump(), limit)


def evaluate_both(recipe: Recipe, source: SRModel, model: SRModel, run: Path) -> dict[str, dict]:
    """Evaluate source and compressed model on every data set, as far as that is not done.

    Args:
        recipe: Of the run.
        source: The uncompressed model.
        model: The compressed model, as `run` holds it.
        run: The run directory.

    Returns:
        For each data set the averages of "source" and "compressed", and under "fidelity_db" the
        PSNR in dB between their 8-bit outputs, None where no image was restored by both.
    """
    # The keys are identities under which a run that was killed finds what it restored and scored.
    original = _Candidate("source", source, _key_of_source(recipe))
    compressed = _Candidate("compressed", model, key_of_file(run / MODEL_FILE))
    results = {}
    for data in open_all(recipe):
        folder = run / "eval" / data.name
        results[data.name] = {
            "source": _evaluate(recipe, original, data, folder / "source", run),
            "compressed": _evaluate(recipe, compressed, data, folder, run),
            "fidelity_db": _write_fidelity(folder, data),
        }
    return results


@dataclass(frozen=True)
class _Candidate:
    """A model to evaluate; `key` is an identity of what it computes."""

    name: str
    model: SRModel
    key: str


def _key_of_source(recipe: Recipe) -> str:
    weights = with_local_files(recipe.source).data_key()
    identity = repr((dump(recipe.source), weights, code_version()))
    return hashlib.sha256(identity.encode()).hexdigest()


def _evaluate(
    recipe: Recipe, candidate: _Candidate, data: DataSet, folder: Path, run: Path
) -> dict:
    """Averages of one model on one data set, measured unless they are in `folder`."""
    if not (folder / "averages.json").is_file():
        _LOG.info("evaluate: %s on %s", candidate.name, data.name)
        takes_references = candidate.model.wiring.references is not None
        options = EvaluateOptions(
            recipe.eval.metrics,
            recipe.eval.iqa_weights,
            folder,
            save=folder / "restored",
            cache=run / "passes" / "scores.sqlite",
            model_key=candidate.key,
            references=recipe.eval.references if takes_references else (),
        )
        evaluate(candidate.model, data, options)
    return read_averages(folder)


def _write_fidelity(folder: Path, data: DataSet) -> float | None:
    """Write PSNR between the outputs of both models by image; returns the mean in dB."""
    fidelity: dict[str, float] = {}
    for pair in data.pairs:
        file = f"restored/{pair.name}.png"
        by_source = folder / "source" / file
        by_compressed = folder / file
        # An image that could not be read was restored by neither.
        if by_source.is_file() and by_compressed.is_file():
            fidelity[pair.name] = _psnr(read_image(by_source), read_image(by_compressed))
    write_text(folder / "fidelity.json", json.dumps(fidelity))
    if not fidelity:
        return None
    return float(np.mean(list(fidelity.values())))


def _psnr(first: torch.Tensor, second: torch.Tensor) -> float:
    """PSNR in dB of two images in [0, 1]."""
    error = (first - second).square().mean().clamp(min=LEAST_ERROR)
    return (-10 * torch.log10(error)).item()
