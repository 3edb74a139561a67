"""A bias fits into 32-bit codes: of the input's scale times the weight's, however small that is."""

import pytest
import torch

from compress.quant.affine import Grid
from compress.quant.bias_range import MOST_BIAS_CODE, room_for_bias


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
