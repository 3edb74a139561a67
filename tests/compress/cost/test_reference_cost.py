"""What references cost: counted beside a run, and by hand."""

import pytest
from support.referring import adapter_pass

from compress.cost.count import measure
from compress.cost.references import reference_cost
from compress.families.osediff import OSEDiffSource
from compress.recipe.checkpoint import convert_all
from compress.recipe.plan_text import as_json, as_text
from compress.recipe.recipe import load_recipe

LATENT = 64 // 8
NUMBERS = 2 * ((LATENT // 2) ** 2 * 80 + (LATENT // 4) ** 2 * 32 + (LATENT // 8) ** 2 * 32)


def test_what_is_kept_is_counted():
    model = convert_all(OSEDiffSource(), [adapter_pass()])
    cost = reference_cost(model)
    assert cost.numbers == NUMBERS
    assert cost.bytes == 4 * 3 * NUMBERS
    run = measure(model)
    assert run.component("reference_encoder").macs_full == 0
    assert run.component("reference_encoder").params == cost.making.params
    assert cost.making.macs_paper == 56_269_824
    assert run.component("reference_query").macs_full > run.component("reference_query").macs_paper
    assert reference_cost(OSEDiffSource().build()) is None


@pytest.mark.slow
def test_the_full_model_keeps_its_text_encoder_out_of_it():
    cost = reference_cost(convert_all(OSEDiffSource(size="sd21"), [adapter_pass(size=256)]))
    assert cost.numbers == 2 * (16**2 * 640 + 8**2 * 1280 + 4**2 * 1280)
    assert cost.making.macs_full == 163_989_995_520


@pytest.mark.slow
def test_a_plan_says_so(tmp_path):
    from compress.recipe.plan import plan, published_accounting

    recipe = load_recipe("osediff_reference_nano", [])
    rows, published = plan(recipe), published_accounting(recipe)
    text = as_text(recipe, rows, published)
    assert "reference_encoder runs once a photograph" in text
    assert '"numbers_of_one"' in as_json(recipe, rows, published)
