"""Whether a run directory is one of a recipe, also of a version that wrote fewer keys."""

import pytest

from compress.pipeline.runner import is_same_recipe
from compress.recipe.recipe import load_recipe, to_yaml


@pytest.fixture
def recipe():
    return load_recipe("adcsr")


def without(text: str, key: str) -> str:
    lines = text.splitlines(keepends=True)
    kept = [line for line in lines if not line.strip().startswith(f"{key}:")]
    assert len(kept) < len(lines)
    return "".join(kept)


@pytest.mark.parametrize("key", [None, "references", "colour_fix"])
def test_keys_that_have_come_since_have_their_defaults(tmp_path, recipe, key):
    text = to_yaml(recipe)
    (tmp_path / "recipe.yaml").write_text(text if key is None else without(text, key))
    assert is_same_recipe(tmp_path, recipe)


@pytest.mark.parametrize(
    "text",
    ["", "name: another\n", "a: [", "{recipe}extra: 1\n", "{recipe}seed: 5\n", "{recipe}# mine\n"],
)
def test_others(tmp_path, recipe, text):
    (tmp_path / "recipe.yaml").write_text(
        text.replace("{recipe}", without(to_yaml(recipe), "seed"))
    )
    assert not is_same_recipe(tmp_path, recipe)
    assert not is_same_recipe(tmp_path / "none", recipe)
