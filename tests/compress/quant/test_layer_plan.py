"""Which layers are quantised, decided before anything is replaced."""

import pytest
import torch

from compress.core.errors import UserError
from compress.core.tensors import svd_factors
from compress.passes.quantize import Quantize
from compress.quant.layer_plan import BitRules, LayerChoice, LayerPlan
from compress.quant.layers import LayerOptions, QuantLayer

LAST = "decoder.decoder.conv_out"
# A saved model's header and a cache's key are made of the keys in this order.
KEYS = (
    "pass_ method weights activations placement attention norm_stride components weight_scheme "
    "reduce_range pins skip outputs split_skips transforms explicit equalise rounding "
    "bias_correction low_rank ablate order polish target alpha epochs lr batch "
    "calibration ranges"
)


def test_a_plan_says_what_convert_does(tiny):
    step = Quantize(weights=4, activations=8, skip=["encoder.*"], pins={LAST: {"activations": 16}})
    model = tiny()
    plan = step.plan(model)
    assert not any(isinstance(m, QuantLayer) for m in model.modules())
    step.convert(model)
    planned = {
        choice.name: (choice.options.weight_bits, choice.options.act_bits)
        for choice in plan.choices
        if choice.split_at is None
    }
    converted = {
        name: (m.weight_bits, m.act_bits)
        for name, m in model.named_modules()
        if isinstance(m, QuantLayer) and ".parts." not in name
    }
    assert planned == converted
    # At the boundary, at 8 bits at least; the pin decides of the input.
    assert planned[LAST] == (8, 16)
    assert not any(name.startswith("encoder.") for name in planned)


def test_a_plan_prints_one_line_a_layer():
    choices = (
        LayerChoice("decoder", "conv_in", LayerOptions(8, 8)),
        LayerChoice("denoiser", "conv1", LayerOptions(4, 8, quantise_output=True), split_at=80),
    )
    assert LayerPlan(choices).table().splitlines() == [
        "layer            weight  input  notes",
        "decoder.conv_in       8      8",
        "denoiser.conv1        4      8  output quantised, split at channel 80",
    ]


def test_a_plan_refuses_outputs_that_match_nothing(tiny):
    with pytest.raises(UserError, match=r"outputs pattern 'decoder\.nothing' matches no layer"):
        Quantize(outputs=["decoder.nothing"]).plan(tiny())


def test_later_pins_win_and_least_bits_give_way_to_them():
    rules = BitRules(4, 4, {"a.*": (8, None), "a.b": (6, 6)}, ["c.*"])
    assert rules.bits("x", 8, 8) == (8, 8)
    assert rules.bits("a.c", 8, 8) == (8, 8)
    assert rules.bits("a.b", 8, 8) == (6, 6)
    assert rules.is_skipped("c.d")
    assert not rules.is_skipped("a.b")


def test_a_pin_of_a_skipped_layer_is_no_mistake():
    rules = BitRules(4, 4, {"c.*": (8, 8)}, ["c.*"])
    rules.check_patterns(["c.d"], [])
    with pytest.raises(UserError, match=r"skip pattern 'c\.\*' matches no layer"):
        rules.check_patterns(["a.b"], [])


def test_keys_keep_their_order():
    assert list(Quantize.model_fields) == KEYS.split()


@pytest.mark.parametrize("rank", [1, 3, 9])
def test_factors_of_an_svd(rank):
    matrix = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    up, down = svd_factors(matrix, rank)
    kept = min(rank, 5)
    assert up.shape == (5, kept)
    assert down.shape == (kept, 7)
    values = torch.linalg.svdvals(matrix)
    error = (up @ down - matrix).square().sum()
    torch.testing.assert_close(error, values[rank:].square().sum(), rtol=1e-4, atol=1e-4)
    # Singular values are split evenly.
    torch.testing.assert_close(up.norm(dim=0), down.norm(dim=1))
