"""One word for what a model quantises, and the range of its weights."""

import pytest
import torch

from compress.core.errors import UserError
from compress.passes.quantize import Quantize
from compress.quant.affine import Grid, qparams, quantize_weight
from compress.quant.placement import Placement


@pytest.mark.parametrize(
    ("config", "placement"),
    [
        ({}, Placement.COMPAT),
        ({"attention": True}, Placement.ATTENTION),
        ({"placement": "cpu"}, Placement.CPU),
        ({"placement": "full"}, Placement.FULL),
    ],
)
def test_of_a_pass(config, placement):
    step = Quantize(**config)
    assert step.grids is placement
    assert step.label() == placement


def test_the_outputs_are_said():
    assert Quantize(outputs=["*"]).label() == "compat with outputs"
    assert Quantize(outputs=["*"], attention=True).label() == "compat with attention with outputs"


def test_every_placement_has_a_sentence_of_its_own():
    sentences = [placement.describe() for placement in Placement]
    assert len(set(sentences)) == len(sentences) == 4
    for placement in Placement:
        assert ("not whole-graph quantisation" in placement.describe()) != placement.whole_graph
    assert "attention" in Placement.ATTENTION.describe()
    assert "sums" in Placement.CPU.describe()


@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_of_a_reduced_range(symmetric):
    grid = Grid(8, symmetric=symmetric, signed=True, reduced=True)
    assert (grid.qmin, grid.qmax, grid.dtype) == (-64, 64, torch.int8)
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    flat = weight.flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    stored, scale, zero_point = quantize_weight(weight, low, high, grid)
    assert stored.abs().max() == 64
    restored = (stored.flatten(1) - zero_point[:, None]) * scale[:, None]
    assert (restored - flat).abs().max() <= 0.5001 * scale.max()
    assert torch.equal(scale, qparams(low, high, grid)[0])


@pytest.mark.parametrize(("bits", "signed"), [(4, True), (16, True), (8, False)])
def test_other_grids_have_no_reduced_range(bits, signed):
    with pytest.raises(UserError, match="a reduced range is one of signed 8-bit codes"):
        Grid(bits, signed=signed, reduced=True)


def test_two_products_fit_sixteen_bits():
    grid = Grid(8, symmetric=True, signed=True, reduced=True)
    assert 2 * 255 * max(grid.qmax, -grid.qmin) <= 2**15 - 1
    assert 2 * 255 * (grid.qmax + 1) > 2**15 - 1, "a wider range would be free"
