"""What a report says of a recipe: true of that recipe, and of no other."""

from pathlib import Path

import pytest
import yaml

from compress.quant.placement import Placement
from eval.reporting.notes import notes, plural

RECIPES = Path(__file__).resolve().parents[3] / "recipes"
NOT_WHOLE = "not whole-graph quantisation"


def said(*passes: dict) -> str:
    return " ".join(notes({"passes": list(passes)}))


def of(name: str) -> str:
    return " ".join(notes(yaml.safe_load((RECIPES / f"{name}.yaml").read_text())))


def quantize(**options) -> dict:
    return {"pass": "quantize", "weights": 8, "activations": 8, **options}


@pytest.mark.parametrize(
    ("options", "placement"),
    [
        ({}, Placement.COMPAT),
        ({"attention": True}, Placement.ATTENTION),
        ({"placement": "cpu"}, Placement.CPU),
        ({"placement": "full"}, Placement.FULL),
    ],
)
def test_the_placement_is_the_recipe_s(options, placement):
    text = said(quantize(**options))
    assert text == f"Placement {placement}: {placement.describe()}"
    assert (NOT_WHOLE in text) != placement.whole_graph


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("passionsr_w8a8", False),
        ("passionsr_fast_w8a8", False),
        ("passionsr_full_w8a8", True),
        ("baselines/minmax_full_w8a8", True),
        ("passionsr_w8a16", True),
    ],
)
def test_shipped_recipes(name, whole):
    text = of(name)
    assert text.startswith("Placement ")
    assert (NOT_WHOLE in text) != whole


def test_models_in_floating_point_have_nothing_to_say():
    assert of("adcsr") == of("edge_sd_sr") == said({"pass": "strip"}) == said() == ""


def test_what_the_recipe_adds_is_said():
    assert "lists under outputs are quantised, too" in of("passionsr_w8a8")
    assert "lists under outputs" not in of("passionsr_full_w8a8")
    assert "What the 7 patterns under skip match stays in floating point" in of("passionsr_w8a8")
    assert "What the 1 pattern under skip matches stays" in said(quantize(skip=["a"]))
    assert "a branch of rank 8 is in floating point" in of("passionsr_w4a8")
    assert "rank" not in of("passionsr_w8a8")
    assert "codes from -64 to 64" in said(quantize(reduce_range=True))
    assert "in the denoiser and the decoder alone" in of("adcsr_w8a8")


@pytest.mark.parametrize(
    ("options", "narrow"),
    [
        ({}, False),
        ({"weights": 4}, True),
        ({"activations": 6}, True),
        ({"weights": 4, "activations": 16}, True),  # once taken for a wide one
        ({"pins": {"*": 6}}, True),  # recipes/mixed_precision.yaml: 8 bits but for its pins
        ({"pins": {"*": {"weights": 4}}}, True),
        ({"pins": {"*": {"activations": 16}}}, False),
        ({"pins": {"*": 8}, "activations": 16}, False),
    ],
)
def test_containers_of_narrow_codes(options, narrow):
    assert ("stored in 8-bit containers" in said(quantize(**options))) is narrow


def test_narrow_recipes():
    assert all(
        "8-bit containers" in of(name)
        for name in ("mixed_precision", "passionsr_w4a8", "passionsr_w6a6")
    )
    assert "8-bit containers" not in of("passionsr_w8a8")


def test_one_bit_is_simulated():
    text = of("bimacosr")
    assert "weights of one bit and inputs of one bit" in text
    assert "simulated" in text
    assert "stored packed" in text
    assert "Placement" not in text
    unpacked = said(
        {"pass": "binarize", "method": "ternary", "components": ["denoiser", "decoder"]}
    )
    assert "weights ternary and inputs of 8 bits" in unpacked
    assert "no pass “pack”" in unpacked
    assert "Layers of the denoiser and the decoder" in unpacked


def test_two_kinds_of_passes_are_both_said():
    text = of("bimacosr_full")
    assert "Placement compat in the encoder and the decoder alone" in text
    assert "one bit" in text


def test_the_same_sentence_stands_once():
    assert said(quantize(), quantize()) == said(quantize())


@pytest.mark.parametrize(("count", "word"), [(0, "images"), (1, "image"), (2, "images")])
def test_plural(count, word):
    assert plural(count, "image") == word
