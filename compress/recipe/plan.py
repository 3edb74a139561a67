"""What a recipe would cost, before any weight is read.

Source and passes are built on the meta device and counted one by one. `plan_text` prints it.
"""

from compress.cost.cost import Cost, Replaced
from compress.cost.count import measure, measure_module
from compress.cost.references import ReferenceCost, reference_cost
from compress.model.passes import Pass
from compress.model.sr_model import SRModel
from compress.passes.quantize import Quantize
from compress.recipe.checkpoint import convert_all, dump
from compress.recipe.recipe import Recipe
from compress.routing.knobs import said

LR_SIZE = (128, 128)  # height and width in pixels that costs are stated at


def label(step: Pass) -> str:
    """A short name of a pass for tables, with bits and their placement where it has them."""
    name = dump(step)["pass"]
    if not isinstance(step, Quantize):
        return name
    reduced = " in a reduced range" if step.reduce_range else ""
    return f"{name} W{step.weights}A{step.activations} {step.label()}{reduced}"


def plan_model(
    recipe: Recipe, lr_size: tuple[int, int] = LR_SIZE
) -> tuple[SRModel, list[tuple[str, Cost]]]:
    """The compressed model on the meta device, and what `plan` says of it; as `plan`."""
    model = recipe.source.build()
    rows = [("source", measure(model, lr_size))]
    for step in recipe.passes:
        step.convert(model)
        cost = measure(model, lr_size) if step.changes_structure else rows[-1][1]
        rows.append((label(step), cost))
    return model, rows


def plan(recipe: Recipe, lr_size: tuple[int, int] = LR_SIZE) -> list[tuple[str, Cost]]:
    """(label, cost) of the source and after each pass.

    Args:
        recipe: Of any source and passes.
        lr_size: Height and width of the low-resolution input in pixels.

    Raises:
        UserError: A pass does not act on what is before it.
    """
    return plan_model(recipe, lr_size)[1]


def published_accounting(recipe: Recipe, lr_size: tuple[int, int] = LR_SIZE) -> Cost:
    """The result's cost with every pass as its paper has it.

    Nothing is folded that the paper does not fold.
    """
    steps = [step.as_published() for step in recipe.passes]
    return measure(convert_all(recipe.source, steps), lr_size)


def references(recipe: Recipe) -> ReferenceCost | None:
    """What references of the result cost beside a run; None for most models."""
    return reference_cost(convert_all(recipe.source, recipe.passes))


def knobs(recipe: Recipe) -> str:
    """The knobs of realism that the result and its exports have, in one sentence."""
    return said(convert_all(recipe.source, recipe.passes).process)


def replaced(recipe: Recipe) -> Replaced | None:
    """What the published system runs and the source does not, counted; None for most sources."""
    part = recipe.source.replaced()
    if part is None:
        return None
    cost = measure_module(part.module, part.example, name=part.name)
    return Replaced(part.name, part.title, part.by, part.system, cost)
