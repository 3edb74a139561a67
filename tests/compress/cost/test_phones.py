"""Predicted latency.

Rates against the figures that they come from, sums by precision, and the word "predicted".
"""

import json

import pytest
import torch
from torch import nn

from compress.cost import phones
from compress.cost.cost import Arithmetic, Cost, Layer
from compress.cost.count import measure, measure_module
from compress.families.osediff import OSEDiffSource
from compress.passes import PASSES
from compress.recipe.checkpoint import convert_all
from compress.recipe.plan import plan, published_accounting
from compress.recipe.plan_text import as_json, as_text
from compress.recipe.recipe import load_recipe


def layer(
    macs: int, bits: int = 32, weight_bits: int | None = None, name: str = "denoiser.a"
) -> Layer:
    return Layer(
        name,
        "Conv2d",
        params=110,
        macs_conv=macs,
        arithmetic=Arithmetic(weight_bits or bits, bits, floating=weight_bits is None),
    )


def test_rates_follow_from_the_published_latencies():
    """Real-ESRGAN x4plus by hand.

    23 RRDBs of 3 dense blocks on 128x128, two doublings, two convolutions at 512x512.
    """
    dense = 9 * 32 * (64 + 96 + 128 + 160) + 9 * 64 * 192
    trunk = 128**2 * (23 * 3 * dense + 9 * 64 * 64 + 9 * 3 * 64)
    gmacs = (trunk + 256**2 * 9 * 64 * 64 + 512**2 * 9 * (2 * 64 * 64 + 64 * 3)) / 1e9
    assert gmacs == pytest.approx(293.7, abs=0.5)
    published = {
        "Galaxy S24": (48.9, 13.8),
        "Galaxy S25": (37.9, 11.6),
        "Snapdragon 8 Elite Gen 5": (25.7, 7.5),
    }
    assert phones.rates().keys() == published.keys()
    for device, times in published.items():
        for precision, ms in zip(("fp16", "W8A8"), times, strict=True):
            rate = phones.rates()[device][precision]
            assert rate.gmacs_per_ms == pytest.approx(gmacs / ms, rel=0.05)
            assert f"{ms:g} ms" in rate.source
    # Full MACs of the UNet and decoder of SD 2.1, exact in tests/compress/cost/test_cost.py:
    # attention counts.
    for device, unet_ms, decoder_ms in (("Galaxy S24", 69, 201), ("Galaxy S25", 54, 176)):
        mean = (402.1 / unet_ms + 1257.3 / decoder_ms) / 2
        assert phones.rates()[device]["W8A16"].gmacs_per_ms == pytest.approx(mean, rel=0.02)


def test_precision_of_a_layer():
    assert phones.precision(layer(1)) == "fp16"
    assert phones.precision(layer(1, bits=16)) == "fp16"  # a float stored in half
    assert phones.precision(layer(1, bits=16, weight_bits=8)) == "W8A16"
    assert [phones.precision(layer(1, bits=b, weight_bits=b)) for b in (8, 6, 1)] == [
        "W8A8",
        "W8A8",
        "fp16",
    ]
    half = measure_module(nn.Conv2d(3, 8, 3).half(), torch.empty(1, 3, 8, 8), name="x")
    assert phones.gmacs_by_precision(half).keys() == {"fp16"}
    model = convert_all(
        OSEDiffSource(), [PASSES["quantize"](weights=8, activations=16, components=("decoder",))]
    )
    found = phones.gmacs_by_precision(measure(model, (64, 64)))
    assert list(found) == ["fp16", "W8A16"]
    assert min(found.values()) > 0


def test_a_mixed_model_sums_its_parts():
    cost = Cost(
        (128, 128),
        (
            layer(12_000_000_000),
            layer(42_000_000_000, bits=8, weight_bits=8),
            Layer("denoiser.b", "Attention", macs_attention=6_000_000_000),
        ),
    )
    first = phones.predict(cost)[0]
    assert first.device == "Galaxy S24"
    assert first.ms == pytest.approx(18 / 6 + 42 / 21)
    assert first.terms() == "18.0 GMACs fp16 / 6 + 42.0 GMACs W8A8 / 21"


def test_the_published_latency_stands_beside_the_predicted_one():
    class Source:
        family, size = "edge_sd_sr", "default"

    lines = phones.as_lines(Cost((128, 128), (layer(140_700_000_000),)), Source())
    said = [
        line
        for line in lines
        if line.startswith("  Edge-SD-SR on Galaxy S24: published 38 ms, predicted 23.4 ms")
    ]
    assert len(said) == 1
    assert "(0.62 of it)" in said[0]
    # Elsewhere, and at another size than the published one, there is nothing to stand beside.
    assert not any(
        "published 38" in line for line in phones.as_lines(Cost((128, 128), (layer(10**9),)), None)
    )
    assert not any(
        "published 38" in line
        for line in phones.as_lines(Cost((64, 64), (layer(10**9),)), Source())
    )


@pytest.mark.slow
def test_the_plan_prints_predictions_of_the_result():
    recipe = load_recipe("recipes/passionsr_w8a8.yaml")
    rows = plan(recipe)
    text = as_text(recipe, rows, published_accounting(recipe))
    predicted = [line for line in text.splitlines() if " predicted " in line and " ms = " in line]
    assert len(predicted) == 3
    assert all("fp16" in line and "W8A8" in line for line in predicted)
    assert "nothing was run on a phone" in text
    printed = json.loads(as_json(recipe, rows, published_accounting(recipe)))["predicted_ms"]
    assert printed == {p.device: round(p.ms, 2) for p in phones.predict(rows[-1][1])}
    assert [p.ms for p in phones.predict(rows[-1][1])] < [p.ms for p in phones.predict(rows[0][1])]
