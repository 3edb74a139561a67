"""The float model whose layers are measured, and what made it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from compress.core.errors import UserError
from compress.core.folders import occupied
from compress.model.passes import Pass
from compress.model.source import Source
from compress.model.sr_model import SRModel
from compress.passes.quantize import Quantize
from compress.recipe.cache import PassCache
from compress.recipe.checkpoint import load_model, read_header
from compress.recipe.recipe import Recipe, load_recipe
from compress.recipe.run_passes import compress
from compress.recipe.shipped import shipped_recipes

RECIPES = (".yaml", ".yml")


@dataclass
class Subject:
    """A float model and the quantize pass whose widths are in question.

    Attributes:
        source: The config of the uncompressed model.
        before: The passes that made `model` of it.
        step: The quantize pass.
        model: The float model with its values.
        recipe: Where all of these come from; None for a model alone.
        place: The number of `step` among the recipe's passes.
    """

    source: Source
    before: list[Pass]
    step: Quantize
    model: SRModel
    recipe: Recipe | None = None
    place: int = 0


def open_subject(path: str, overrides: list[str], cache: Path, workdir: Path) -> Subject:
    """Of a recipe the model before its first quantize pass; of a model file the model itself.

    Args:
        path: A recipe or the name of a shipped one, a run directory or a model.safetensors.
        overrides: Of the recipe, as typed.
        cache: The folder of the pass cache.
        workdir: A folder, in which one gets the checkpoints of long passes: KEY.work, by the key
            that the pass cache has for the recipe. It goes once they are done.

    Raises:
        UserError: The recipe has no quantize pass, the model is quantised, or something cannot be
            read.
    """
    if path.endswith(RECIPES) or (path in shipped_recipes() and not Path(path).exists()):
        return _of_recipe(path, overrides, cache, workdir)
    if overrides:
        raise UserError(
            f"{path} is a model, which has nothing to override; drop {overrides[0]}, or give a "
            "recipe"
        )
    source, passes = read_header(path)
    if any(isinstance(step, Quantize) for step in passes):
        raise UserError(
            f"{path}: is quantised already; give the recipe that made it, or a float model"
        )
    return Subject(source, passes, Quantize(), load_model(path))


def _of_recipe(path: str, overrides: list[str], cache: Path, workdir: Path) -> Subject:
    recipe = load_recipe(path, overrides)
    for place, step in enumerate(recipe.passes):
        if isinstance(step, Quantize):
            before = recipe.passes[:place]
            shortened = recipe.model_copy(update={"passes": before})
            stored = PassCache(cache, recipe.source, recipe.seed)
            folder = workdir / f"{stored.key(before)}.work"
            with occupied(folder, "-o"):
                model = compress(shortened, stored, torch.device("cpu"), folder).model
                shutil.rmtree(folder)
            return Subject(recipe.source, before, step, model.eval(), recipe, place)
    raise UserError(
        f"{path}: has no pass 'quantize', whose layers and methods are to be measured; add one"
    )
