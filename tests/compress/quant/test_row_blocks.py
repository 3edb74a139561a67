"""Large weights are rounded in blocks of rows, and kept while nothing changes."""

import pytest
import torch

from compress.quant import affine
from compress.quant.affine import Grid, best_shrink, fake_quantize, per_channel
from compress.quant.kept_weight import KeptWeight
from compress.quant.objective import Objective
from compress.quant.row_blocks import fake_quantize_weight


def weight_and_range():
    """A weight, and boundaries inside which most of it lies; all of them want gradients."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(11, 6, 3, 3, generator=generator)
    low = weight.flatten(1).amin(1) * 0.7
    high = weight.flatten(1).amax(1) * 0.8
    return [t.requires_grad_() for t in (weight, low, high)]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("values", [1, 200, 10**6])
def test_blocks_of_rows_are_the_whole_to_the_bit(monkeypatch, symmetric, values):
    monkeypatch.setattr(affine, "VALUES_AT_ONCE", values)
    grid = Grid(6, symmetric=symmetric, signed=True)
    found = []
    for in_blocks in (False, True):
        weight, low, high = weight_and_range()
        if in_blocks:
            rounded = fake_quantize_weight(weight, low, high, grid)
        else:
            rounded = fake_quantize(weight, per_channel(low, 4), per_channel(high, 4), grid)
        rounded.backward(weight.detach().cos())
        found.append((rounded.detach(), weight.grad, low.grad, high.grad))
    for whole, blocks in zip(*found, strict=True):
        assert torch.equal(whole, blocks)
    assert found[0][2].abs().max() > 0


def test_only_what_is_learned_has_a_gradient():
    weight, low, high = weight_and_range()
    fake_quantize_weight(weight.detach(), low, high, Grid(8, signed=True)).sum().backward()
    assert weight.grad is None
    assert high.grad is not None


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_search_in_blocks_finds_the_same(monkeypatch, symmetric):
    x = torch.randn(9, 40, generator=torch.Generator().manual_seed(1)) ** 3
    found = []
    for values in (90, 200, 10**6):
        monkeypatch.setattr(affine, "VALUES_AT_ONCE", values)
        grid = Grid(6, symmetric=symmetric)
        found.append(torch.stack(best_shrink(x, x.amin(1), x.amax(1), grid)))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert found[0].min() < 1


def test_a_kept_weight_is_forgotten_once_something_changes():
    boundary = torch.nn.Parameter(torch.zeros(2))
    weight = torch.ones(2, 3)
    kept = KeptWeight(weight, [boundary, None])
    assert kept.get([boundary, None]) is weight
    assert kept.get([boundary, torch.zeros(1)]) is None
    assert kept.get([boundary]) is None
    with torch.no_grad():
        boundary.add_(1)
    assert kept.get([boundary, None]) is None


def test_errors_beyond_the_limit_are_not_computed():
    runs = []

    def run(x):
        runs.append(x)
        return torch.tensor([x])

    objective = Objective(run, [2.0, 3.0, 1.0], [torch.ones(1)] * 3)
    assert objective.mean_error() == pytest.approx((1 + 4 + 0) / 3)
    assert objective.mean_error(limit=1.7) == pytest.approx(5 / 3)
    runs.clear()
    assert objective.mean_error(limit=0.3) >= 0.3
    assert runs == [2.0]
