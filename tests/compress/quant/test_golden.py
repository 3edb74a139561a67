"""Parity with the authors' fake quantisers and transforms (shared/golden/passionsr_quant)."""

import pytest
import torch
from safetensors.torch import load_file

from compress.quant import equivalent
from compress.quant.affine import Grid, codes, fake_quantize, qparams, round_ste

TENSORS = [
    "act.map",
    "act.negative_range",
    "act.positive_range",
    "act.tokens",
    "weight.bias",
    "weight.conv",
    "weight.linear",
]


@pytest.fixture(scope="module")
def golden(shared):
    return load_file(shared / "golden" / "passionsr_quant.safetensors")


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm().clamp(min=1e-12)).item()


@pytest.mark.parametrize("bits", [8, 6])
@pytest.mark.parametrize("name", TENSORS)
def test_fake_quantiser(golden, name, bits):
    kind, tensor = name.split(".")
    x, out = golden[f"inputs.fakequant.{name}"], f"outputs.fakequant.{kind}{bits}.{tensor}."
    low, high, grid = golden[out + "x_min"], golden[out + "x_max"], Grid(bits)
    scale, zero_point = qparams(low, high, grid, zero_in_range=False)
    torch.testing.assert_close(scale, golden[out + "scale"], rtol=1e-6, atol=0)
    # Theirs is added to the codes, ours subtracted.
    assert torch.equal(-zero_point, golden[out + "zero_point"])
    assert torch.equal(codes(x, scale, zero_point, grid), golden[out + "q"])
    ours = fake_quantize(x, low, high, grid, zero_in_range=False)
    assert (ours - golden[out + "dequantised"]).abs().max() <= 2e-5
    assert relative(ours, golden[out + "dequantised"]) <= 1e-5


@pytest.mark.parametrize("bits", [8, 6])
@pytest.mark.parametrize("name", TENSORS)
def test_gradients_of_learned_boundaries(golden, name, bits):
    kind, tensor = name.split(".")
    before = f"outputs.fakequant.{kind}{bits}.{tensor}."
    after, grid = before + "narrow.", Grid(bits)
    x = golden[f"inputs.fakequant.{name}"].clone().requires_grad_()
    low = golden[after + "x_min"].clone().requires_grad_()
    high = golden[after + "x_max"].clone().requires_grad_()
    # The golden was taken right after the range was changed. The released code then still divides
    # by the scale from before to get its zero point. The terms are the same, so put them together
    # its way.
    scale, _ = qparams(low, high, grid, zero_in_range=False)
    zero_point = -round_ste(low / golden[before + "scale"])
    assert torch.equal(-zero_point, golden[after + "zero_point"])
    y = (codes(x, scale, zero_point, grid) - zero_point) * scale
    assert (y - golden[after + "dequantised"]).abs().max() <= 2e-5
    (y * golden[f"inputs.fakequant.{name}_grad_y"]).sum().backward()
    for ours, theirs in ((x.grad, "grad_x"), (low.grad, "grad_x_min"), (high.grad, "grad_x_max")):
        assert relative(ours, golden[after + theirs]) <= 1e-5, theirs


def layer_inputs(golden, kind, x):
    weight, bias = golden[f"weights.{kind}.weight"], golden[f"weights.{kind}.bias"]
    return golden[f"inputs.let.{kind}.{x}"], weight, bias, golden[f"inputs.let.{kind}.offset"]


def our_scale(x, weight, conv):
    channels = x.transpose(0, 1).flatten(1) if conv else x.flatten(0, -2).T
    return equivalent.initial_scale(channels.abs().amax(1), equivalent.input_channel_max(weight))


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_equivalent_transform_keeps_the_function(golden, kind):
    x, weight, bias, offset = layer_inputs(golden, kind, "x")
    out = f"outputs.let.{kind}.x."
    scale = our_scale(x, weight, kind == "conv")
    theirs = golden[out + "let_only.let_scale"].flatten()
    torch.testing.assert_close(scale, theirs, rtol=1e-6, atol=0)
    options = {"padding": 1} if kind == "conv" else {}
    function = getattr(equivalent, "conv2d" if kind == "conv" else "linear")
    assert relative(function(x, weight, bias, scale, **options), golden[out + "let_only.y"]) <= 1e-5
    # With an offset theirs is right for convolutions only; ours is right for both.
    shifted = function(x, weight, bias, scale, offset, **options)
    assert relative(shifted, golden[out + "float.y"]) <= 1e-5


@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize("bits", [8, 6])
def test_quantised_layer(golden, kind, bits):
    """Transform, then quantisers of activation, weight (W * s) and bias, as released."""
    x, weight, bias, _ = layer_inputs(golden, kind, "x")
    out = f"outputs.let.{kind}.x.W{bits}A{bits}_let."
    grid, conv = Grid(bits), kind == "conv"
    scale = our_scale(x, weight, conv)
    scaled = weight * equivalent.on_channels(scale, weight, conv)
    inputs = x / equivalent.on_channels(scale, x, conv)
    quantised = fake_quantize(inputs, inputs.amin(), inputs.amax(), grid, False)
    rows = scaled.flatten(1)
    shape = (-1, *[1] * (weight.ndim - 1))
    weights = fake_quantize(scaled, rows.amin(1).view(shape), rows.amax(1).view(shape), grid, False)
    biases = fake_quantize(bias, bias.amin(), bias.amax(), grid, False)
    y = (
        torch.nn.functional.conv2d(quantised, weights, biases, padding=1)
        if conv
        else torch.nn.functional.linear(quantised, weights, biases)
    )
    assert (
        relative(y, golden[out + "y"]) <= 2e-3
    )  # the golden's tolerance: a code at a tie may flip
