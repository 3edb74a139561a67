"""Ranges of their own for each step of a chain: which tensors of a model have them."""

from torch import nn

from compress.core.errors import UserError
from compress.model.sr_model import SRModel
from compress.quant.quantiser import ByStep, TensorQuantiser


def has_ranges_by_step(model: nn.Module) -> bool:
    """Whether a tensor of the model has a range for each step."""
    return any(isinstance(module, ByStep) for module in model.modules())


def quantisers_of(model: nn.Module) -> set[TensorQuantiser]:
    """All quantisers of a model."""
    return {module for module in model.modules() if isinstance(module, TensorQuantiser)}


def divide_by_step(
    model: SRModel, components: tuple[str, ...], earlier: set[TensorQuantiser]
) -> None:
    """Give tensors of the components that run at each step a quantiser for each, in place.

    With one step nothing changes. A range that a formula pins is the same at all steps.

    Args:
        model: Has quantisers that are not in their learning state yet.
        components: Those that may change.
        earlier: Quantisers of passes before, which stay as they are.

    Raises:
        UserError: The process takes more steps for some images than for others.
    """
    process = model.process
    if process.steps == 1:
        return
    if process.adaptive:
        raise UserError(
            f"pass 'quantize': ranges=by_step needs a fixed chain, and {type(process).__name__} "
            "decides for each image which steps it takes; set ranges=shared"
        )
    for call in model.wiring.steps:
        if call.component in components:
            _divide(getattr(model, call.component), process.steps, earlier)


def _divide(component: nn.Module, steps: int, earlier: set[TensorQuantiser]) -> None:
    for module in list(component.modules()):
        if isinstance(module, ByStep):
            continue
        for name, child in list(module.named_children()):
            if not isinstance(child, TensorQuantiser) or child in earlier:
                continue
            if not child.pinned:
                setattr(module, name, ByStep(child, steps))
