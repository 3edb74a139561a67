"""Weights between those of two models of one structure, in floating point.

    w = strength * own + (1 - strength) * faithful

Models whose training went on from one another, such as the stages of a training before and after
its adversarial loss, lie on such a line (ESRGAN's network interpolation, arXiv 1809.00219).
"""

import torch
from torch import nn

from compress.core.errors import UserError
from compress.quant.quantiser import TensorQuantiser

MOST_NAMES = 2  # of tensors in a sentence
State = dict[str, torch.Tensor]


def check_float(model: nn.Module, who: str) -> None:
    """Refuse a quantised model; meta tensors suffice.

    Raises:
        UserError: It is one.
    """
    if any(isinstance(part, TensorQuantiser) for part in model.modules()):
        raise UserError(
            f"{who}: a quantised model has grids, which cannot be mixed; put the pass interpolate "
            "before quantize in its recipe"
        )


def check_alike(own: nn.Module, faithful: nn.Module, who: str) -> None:
    """Refuse models whose weights cannot be mixed; meta tensors suffice.

    Raises:
        UserError: One is quantised, or their tensors have other names or shapes.
    """
    for model in (own, faithful):
        check_float(model, who)
    mine, theirs = own.state_dict(), faithful.state_dict()
    unlike = [n for n in mine.keys() | theirs.keys() if _shape(mine, n) != _shape(theirs, n)]
    if unlike:
        names = ", ".join(sorted(unlike)[:MOST_NAMES])
        raise UserError(
            f"{who}: the faithful model has another structure ({len(unlike)} tensors differ, such "
            f"as {names}); give one of the same recipe without quantize"
        )


def _shape(state: State, name: str) -> torch.Size | None:
    return state[name].shape if name in state else None


@torch.no_grad()
def interpolate(own: nn.Module, faithful: nn.Module, strength: float, who: str) -> None:
    """Set the weights of `own` on the line from `faithful`, at 0, to themselves, at 1.

    Tensors that are no floating point become the faithful ones below 1.

    Raises:
        UserError: As `check_alike`.
    """
    check_alike(own, faithful, who)
    if strength == 1:
        return
    theirs = faithful.state_dict()
    for name, value in own.state_dict().items():
        other = theirs[name].to(value.device)
        if value.is_floating_point() and strength:
            value.mul_(strength).add_(other.to(value.dtype), alpha=1 - strength)
        else:
            value.copy_(other)
