"""Quantised layers against torchao's primitives and against values worked by hand."""

import pytest
import torch
from torch import nn
from torchao.quantization.quant_primitives import (
    MappingType,
    choose_qparams_affine,
    dequantize_affine,
    quantize_affine,
)

from compress.core.errors import UserError
from compress.quant import affine
from compress.quant.affine import Grid, best_shrink, fake_quantize, qparams, quantize_weight
from compress.quant.fit import begin, freeze
from compress.quant.layers import LayerOptions, QuantConv2d, QuantLinear, SplitConv2d
from compress.quant.ranges import set_mode


def test_by_hand():
    x = torch.tensor([-1.0, -0.26, 0.0, 0.5, 2.0, 3.0])
    scale, zero_point = qparams(torch.tensor(-1.0), torch.tensor(2.0), Grid(4))
    assert (scale.item(), zero_point.item()) == (pytest.approx(0.2), 5)
    # 3.0 is beyond the grid; -0.26 is nearest to code 4, which stands for -0.2.
    expected = torch.tensor([-1.0, -0.2, 0.0, 0.4, 2.0, 2.0])
    torch.testing.assert_close(
        fake_quantize(x, torch.tensor(-1.0), torch.tensor(2.0), Grid(4)), expected
    )


def test_range_is_widened_to_contain_zero():
    for low, high in ((1.0, 3.0), (-3.0, -1.0)):
        low, high = torch.tensor(low), torch.tensor(high)
        assert fake_quantize(torch.zeros(1), low, high, Grid(8)).item() == 0
        _, zero_point = qparams(low, high, Grid(8))
        assert 0 <= zero_point <= 255


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_weights_match_torchao(bits):
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    grid = Grid(bits, symmetric=True, signed=True)
    rows = weight.flatten(1)
    stored, scale, zero_point = quantize_weight(weight, rows.amin(1), rows.amax(1), grid)
    block = (1, 3, 3, 3)
    theirs, zero = choose_qparams_affine(
        weight,
        MappingType.SYMMETRIC_NO_CLIPPING_ERR,
        block,
        torch.int8,
        grid.qmin - 1,
        grid.qmax,
        eps=1e-12,
    )
    codes = quantize_affine(weight, block, theirs, zero, torch.int8, grid.qmin, grid.qmax)
    assert not zero_point.any()
    assert stored.dtype == torch.int8
    # torchao's scale spreads the negative side over one code more, where that is the longer side.
    same = (scale - theirs.flatten()).abs() < 1e-7
    assert same.any()
    assert torch.equal(stored[same], codes[same])
    back = dequantize_affine(stored, block, scale, zero_point, torch.int8, grid.qmin, grid.qmax)
    assert ((back - weight).abs().flatten(1).amax(1) <= scale / 2 + 1e-6).all()


def test_unknown_bits():
    with pytest.raises(UserError, match="5 bits are not supported; choose one of 4, 6, 8, 16"):
        Grid(5)


def test_shrinking_pays_with_outliers():
    x = torch.randn(1, 4096, generator=torch.Generator().manual_seed(0))
    x[0, 0] = 40.0
    low, high = x.amin(1), x.amax(1)
    of_low, of_high = best_shrink(x[:, 1:], low, high, Grid(6))
    assert of_high.item() < 0.3
    assert of_low.item() > 0.6
    error = [
        (fake_quantize(x[:, 1:], low * a, high * b, Grid(6)) - x[:, 1:]).square().mean()
        for a, b in ((1.0, 1.0), (of_low, of_high))
    ]
    assert error[1] < 0.2 * error[0]


@pytest.mark.parametrize("symmetric", [False, True])
def test_factors_tried_at_once_are_those_of_one_by_one(monkeypatch, symmetric):
    x = torch.randn(7, 50, generator=torch.Generator().manual_seed(0)) ** 3
    high = x.abs().amax(1)
    found = []
    for count in (1, 7 * 50 * 3, 10**6):
        monkeypatch.setattr(affine, "TRIED_AT_ONCE", count)
        found.append(torch.stack(best_shrink(x, -high, high, Grid(6, symmetric=symmetric))))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert found[0].min() < 0.9


def fitted(layer, quantised, x, search=False):
    for part in getattr(quantised, "parts", [quantised]):
        weight = layer.weight
        if part is not quantised:
            start = 0 if part is quantised.parts[0] else quantised.hidden
            weight = weight[:, start : start + part.in_channels]
        begin(part, weight)
    reference = quantised(x)  # observes
    torch.testing.assert_close(reference, layer(x), rtol=1e-4, atol=1e-5)
    for part in getattr(quantised, "parts", [quantised]):
        part.fit.start(part, search, search)
    set_mode(quantised, "quantise")
    simulated = quantised(x)
    for part in getattr(quantised, "parts", [quantised]):
        freeze(part)
    return simulated, quantised(x)


@pytest.mark.parametrize(("bits", "limit"), [(16, 1e-7), (8, 2e-4), (6, 3e-3), (4, 6e-2)])
@pytest.mark.parametrize("kind", ["conv", "split", "linear"])
@torch.no_grad()
def test_frozen_layer_is_what_was_learned(kind, bits, limit):
    torch.manual_seed(0)
    if kind == "linear":
        layer, x = nn.Linear(12, 20), torch.randn(2, 7, 12)
        quantised = QuantLinear(layer, LayerOptions(bits, bits))
    else:
        layer, x = nn.Conv2d(12, 20, 3, 1, 1), torch.randn(2, 12, 9, 8)
        options = LayerOptions(bits, bits)
        quantised = (
            QuantConv2d(layer, options) if kind == "conv" else SplitConv2d(layer, 5, options)
        )
    simulated, frozen = fitted(layer, quantised, x)
    error = (frozen - layer(x)).square().mean() / layer(x).square().mean()
    assert error < limit
    torch.testing.assert_close(
        frozen, simulated, rtol=1e-3, atol=1e-3 * layer(x).abs().max().item()
    )
    names = set(dict(quantised.named_buffers()))
    assert not any("fit" in n for n in quantised.state_dict())
    assert any("weight_q" in n for n in names)


@torch.no_grad()
def test_split_gives_each_half_its_own_range():
    torch.manual_seed(0)
    layer, x = nn.Conv2d(8, 6, 1), torch.randn(1, 8, 16, 16)
    x[:, 4:] *= 50
    layer.weight[:, 4:] /= 50
    options = LayerOptions(6, 6)
    error = [
        (fitted(layer, q, x)[1] - layer(x)).square().mean()
        for q in (QuantConv2d(layer, options), SplitConv2d(layer, 4, options))
    ]
    assert error[1] < 0.1 * error[0]
