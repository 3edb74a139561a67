"""Activations that are computed again for the gradient, instead of kept."""

from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from compress.core.errors import UserError


def recompute_activations(module: nn.Module) -> int:
    """Let the blocks of `module` keep only what they are given; returns how many do.

    A block runs twice: once forward, once more when its gradient is due. Results are the same.

    Raises:
        UserError: It has no block that can.
    """
    blocks: list[Any] = [m for m in module.modules() if hasattr(m, "gradient_checkpointing")]
    for block in blocks:  # diffusers' own switch; it is on while gradients are
        block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        block.gradient_checkpointing = True
    if not blocks:
        raise UserError(
            "recompute: the model has no blocks that can be computed again; leave it out"
        )
    return len(blocks)


def keep_activations(module: nn.Module) -> None:
    """Undo `recompute_activations`."""
    blocks: list[Any] = [m for m in module.modules() if hasattr(m, "gradient_checkpointing")]
    for block in blocks:
        block.gradient_checkpointing = False
