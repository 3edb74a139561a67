"""A bias fits into 32-bit codes: of the input's scale times the weight's, however small that is."""

import pytest
import torch

from compress.quant.affine import Grid
from compress.quant.bias_range import MOST_BIAS_CODE, room_for_bias, round_bias
from compress.quant.layers import LayerOptions, QuantConv2d


def layer(options: LayerOptions) -> QuantConv2d:
    """A convolution whose input has a coarse scale beside that of its result."""
    torch.manual_seed(0)
    made = QuantConv2d(torch.nn.Conv2d(3, 5, 3), options)
    made.input.scale.fill_(0.25)
    made.weight_scale.copy_(torch.rand(5) * 0.01 + 0.005)
    return made


def test_the_bias_of_an_integer_convolution_is_codes():
    made = layer(LayerOptions(8, 8, quantise_output=True))
    before = made.bias.clone()
    round_bias(made)
    codes = made.bias / (made.input.scale * made.weight_scale)
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)
    half = made.input.scale * made.weight_scale / 2
    assert ((made.bias - before).abs() <= half * 1.001).all()
    assert not torch.equal(made.bias, before)


@pytest.mark.parametrize(
    "options",
    [LayerOptions(8, 8), LayerOptions(4, 8, quantise_output=True, low_rank=1)],
    ids=["float result", "a branch beside it"],
)
def test_a_bias_that_is_added_to_floats_stays(options):
    made = layer(options)
    before = made.bias.clone()
    round_bias(made)
    assert torch.equal(made.bias, before)


@pytest.mark.parametrize("symmetric", [True, False])
def test_only_rows_without_room_are_widened(symmetric):
    grid = Grid(8, symmetric, signed=True)
    low, high = torch.tensor([-1.0, -1e-9, 0.0]), torch.tensor([1.0, 1e-9, 0.0])
    bias, input_scale = torch.tensor([5.0, 5.0, -5.0]), torch.tensor(0.01)
    wide_low, wide_high = room_for_bias(low, high, bias, input_scale, grid)
    assert (wide_low[0], wide_high[0]) == (low[0], high[0])
    codes = 2 * grid.qmax if symmetric else grid.qmax - grid.qmin
    scale = (wide_high - wide_low) / codes
    assert ((bias.abs() / (scale * input_scale))[1:] <= MOST_BIAS_CODE * 1.001).all()
