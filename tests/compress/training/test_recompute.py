"""Activations that are computed again: the same gradients, and less that is kept."""

import pytest
import torch
from support.tiny_model import tiny
from torch import nn

from compress.core.errors import UserError
from compress.training.recompute import keep_activations, recompute_activations

LR = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def learn(model: nn.Module) -> tuple[dict[str, torch.Tensor], int]:
    """The gradients of an image, and the elements that were kept for them."""
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.network(LR).square().mean()
    loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, kept


def test_gradients_are_the_same_and_less_is_kept():
    model = tiny().requires_grad_(True)
    expected, whole = learn(model)
    assert recompute_activations(model) > 3
    found, less = learn(model)
    assert less < whole
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)
    keep_activations(model)
    assert learn(model)[1] == whole


def test_a_model_without_blocks_is_refused():
    with pytest.raises(UserError, match="no blocks that can be computed again"):
        recompute_activations(nn.Linear(2, 2))
