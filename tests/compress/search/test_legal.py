"""A point whose architecture a target does not take, told by the lint before it is trained."""

import json

import pytest
from support.tiny_model import structure

from compress.core.errors import UserError
from compress.recipe.recipe import parse_recipe
from compress.search import legal
from compress.search.goals import parse_bounds, parse_lints
from compress.search.legal import Legality

RECIPE = {
    "name": "a",
    "source": {"family": "tiny"},
    "passes": [],
    "export": [],
    "eval": {"data": ["embedded"], "metrics": ["psnr"]},
}


@pytest.fixture
def recipe(monkeypatch):
    from support.tiny_model import TinySource

    from compress.families import FAMILIES

    monkeypatch.setitem(FAMILIES, "tiny", TinySource)
    return parse_recipe(RECIPE, "a recipe")


def test_a_lint_is_no_bound_of_a_cost():
    texts = ["bytes<3MB", "lint(qnn)", " lint( gpu ) ", "lint(qnn)"]
    assert parse_lints(texts) == ["qnn", "gpu"]
    assert [bound.text for bound in parse_bounds(texts)] == ["bytes<3MB"]


def test_a_target_that_the_lint_has_not():
    with pytest.raises(UserError, match="lint target 'nokia' is unknown"):
        parse_lints(["lint(nokia)"])


def test_an_architecture_is_looked_at_once_and_refused_for_what_falls_back(
    recipe, tmp_path, monkeypatch
):
    """The gpu delegate has rules for other operators than the HTP."""
    legality = Legality(["qnn", "gpu"], tmp_path, 32)
    excess, told = legality.judge(recipe, recipe.source.build())
    (file,) = (tmp_path / "lint").iterdir()
    found = json.loads(file.read_text())
    assert found.keys() == {"qnn", "gpu"}
    refused = [name for name, verdict in found.items() if verdict["fall_back"]]
    assert (excess > 0) == bool(refused)
    for name in refused:
        share = f"{found[name]['fall_back']} of {found[name]['operators']} operators"
        assert f"lint({name}): {share} fall back to the CPU" in told

    def never(*_):
        raise AssertionError("an architecture is exported twice")

    monkeypatch.setattr(legal.Legality, "_lint", never)
    assert legality.judge(recipe, structure()) == (excess, told)


def test_shares_and_sizes_beyond_a_target_add_up():
    verdict = {"operators": 200, "fall_back": 5, "kinds": ["5 x Erf in decoder, no rule"]}
    excess, told = legal._beyond({**verdict, "largest": 300, "most": 200})
    assert excess == pytest.approx(0.025 + 0.5)
    assert told == (
        "5 of 200 operators fall back to the CPU (5 x Erf in decoder, no rule), a file has 300 "
        "bytes, and it loads 200"
    )
    assert legal._beyond({**verdict, "fall_back": 0, "largest": 1, "most": 200}) == (0, "")
