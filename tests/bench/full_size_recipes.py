"""The recipes of eval/results/full_sizes.py, with their source at full size."""

from compress.core.config import override, read_yaml
from compress.passes.quantize import Quantize
from compress.recipe.recipe import Recipe, parse_recipe
from compress.recipe.shipped import find_recipe
from eval.results.full_sizes import STRIP, W8A16, FullSize

WIDE = 16  # bits of activations


def load_full_size(one: FullSize, way: str) -> Recipe | None:
    """The recipe of a source at full size.

    Args:
        one: The source.
        way: Of `eval.results.full_sizes.WAYS`.

    Returns:
        None where there is no such recipe.
    """
    shipped = one.recipe(way)
    if shipped is None:
        return None
    data = override(read_yaml(find_recipe(shipped.name)), list(shipped.overrides))
    recipe = parse_recipe({**data, "source": dict(one.source)}, shipped.name)
    passes = recipe.passes
    if way == STRIP:
        passes = [step for step in passes if not isinstance(step, Quantize)]
    elif way == W8A16:
        passes = [
            step.model_copy(update={"activations": WIDE}) if isinstance(step, Quantize) else step
            for step in passes
        ]
    return recipe.model_copy(update={"passes": passes})
