"""How much a network's blocks matter: how far the result moves when one is skipped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from compress.pruning.depth import candidates, shortcut


@contextmanager
def skipping(block: nn.Module, name: str) -> Iterator[None]:
    """Let `block` put out what its stand-in (depth.py) does, as it is before any fit.

    Raises:
        UserError: The block has no stand-in.
    """
    light = shortcut(block, name)
    handle = block.register_forward_hook(
        lambda _, args, kwargs, out: light(*args, **kwargs), with_kwargs=True
    )
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def importances(network: nn.Module, run: Callable[[], list[torch.Tensor]]) -> dict[str, float]:
    """Measure every block.

    Args:
        network: Whose blocks.
        run: Runs the model on the calibration images and returns its results.

    Returns:
        Name -> mean square change of the results when that candidate alone is skipped.
    """
    whole = run()
    changes = {}
    for name, block in candidates(network).items():
        with skipping(block, name):
            errors = [(a - b).square().mean() for a, b in zip(run(), whole, strict=True)]
        changes[name] = torch.stack(errors).mean().item()
    return changes
