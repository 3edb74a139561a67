"""Recipes: every shipped one is planned; every mistake gets a sentence with the remedy."""

import json
from pathlib import Path
from typing import get_args

import pytest
import yaml

from compress import run
from compress.checkpoint import FAMILIES, dump, parse_source
from compress.errors import UserError
from compress.plan import plan
from compress.recipe import load_recipe, parse_recipe, to_yaml

RECIPES = sorted(Path("recipes").glob("**/*.yaml"))
MAIN = "recipes/passionsr_w8a8.yaml"


def is_run_recipe(path):
    return "passes" in yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", [p for p in RECIPES if is_run_recipe(p)], ids=lambda p: p.stem)
@pytest.mark.parametrize("size", ["nano", "full size"])
def test_shipped_recipes_plan(path, size):
    if size != "nano":
        size = {"resshift": "full", "edge_sd_sr": "default"}.get(load_recipe(path).source.family, "sd21")
    recipe = load_recipe(path, [f"source.size={size}"])
    if path.stem == "mixed_precision" and size != "nano":   # its pins are the nano's layers, and another model says so
        with pytest.raises(UserError, match="matches no layer"):
            plan(recipe)
        return
    rows = plan(recipe)
    assert len(rows) >= 2
    # A pass that quantises or folds never adds storage.
    assert rows[-1][1].bytes < rows[0][1].bytes
    assert rows[-1][1].macs_equivalent <= rows[0][1].macs_equivalent


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stored_header_gives_its_source_back(family):
    """A header names every field; at no size may one that the user never set be refused."""
    for size in get_args(FAMILIES[family].model_fields["size"].annotation):
        source = FAMILIES[family](size=size)
        assert parse_source(json.loads(json.dumps(dump(source)))) == source


def test_widths_belong_to_nano():
    with pytest.raises(UserError, match="latent_channels is of size 'nano'; the architecture of 'sd21' is published"):
        parse_source({"family": "osediff", "size": "sd21", "latent_channels": 16})
    assert parse_source({"family": "osediff", "latent_channels": 16}).latent_channels == 16


def test_every_recipe_is_named_in_the_readme():
    readme = Path("README.md").read_text()
    assert not [p.name for p in RECIPES if p.name not in readme]


@pytest.mark.parametrize("change, said", [
    ("source.sise=nano", r"sise: unknown key \(did you mean 'size'\?\); valid keys: family, size"),
    ("passes.1.wieghts=8", r"wieghts: unknown key \(did you mean 'weights'\?\)"),
    ("passes.1.weights=5", "5 bits are not supported; choose one of 4, 6, 8, 16"),
    ("passes.1.pins={a: 3}", "pin 'a': 3 bits are not supported"),
    ("passes.0.pass=stripp", r"pass 'stripp' is unknown \(did you mean 'strip'\?\)"),
    ("passes.1.calibration.imges=3", r"calibration.imges: unknown key \(did you mean 'images'\?\)"),
    ("source.family=osedif", r"family 'osedif' is unknown \(did you mean 'osediff'\?\)"),
    ("passes.1.components=[enc]", "'encoder', 'denoiser' or 'decoder'"),
    ("nmae=x", r"nmae: unknown key \(did you mean 'name'\?\)"),
    ("passes=3", "must be a list"),
    ("passes=[strip]", "must be a mapping"),
    ("passes.7.x=1", "no index into a list of 2"),
    ("name.x=1", "single value"),
    ("oops", "not of the form key=value"),
])
def test_mistakes_get_a_sentence(change, said):
    with pytest.raises(UserError, match=said):
        load_recipe(MAIN, [change])


@pytest.mark.parametrize("section", ["name", "source", "passes", "export", "eval"])
def test_sections_are_required(section):
    data = yaml.safe_load(Path(MAIN).read_text())
    del data[section]
    with pytest.raises(UserError, match=f"{section}.*required"):
        parse_recipe(data, "r.yaml")


def test_pattern_that_matches_nothing():
    recipe = load_recipe(MAIN, ["passes.1.skip=[encoder.nothing*]"])
    with pytest.raises(UserError, match=r"skip pattern 'encoder.nothing\*' matches no layer.*layers are named like"):
        plan(recipe)


def test_missing_and_malformed_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_recipe(tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: [")
    with pytest.raises(UserError, match="not valid YAML"):
        load_recipe(bad)


def test_resolved_recipe_is_a_recipe():
    recipe = load_recipe(MAIN, ["seed=7"])
    assert parse_recipe(yaml.safe_load(to_yaml(recipe)), "again") == recipe


def test_plan_of_the_full_size_gives_the_published_counts(capsys):
    with pytest.raises(SystemExit) as exit:
        run.main([MAIN, "source.size=sd21", "--plan", "--json"])
    assert exit.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    rows, published = printed["plan"], printed["published_accounting"]
    source = {c["name"]: c for c in rows[0]["components"]}
    assert source["denoiser"]["params"] == 865_910_724
    assert source["denoiser"]["macs_full"] == 402_128_732_160
    assert published["param_equivalents"] == pytest.approx(237.4e6, rel=0.005)
    assert published["macs_equivalent"] == pytest.approx(530e9, rel=0.015)
    # Folding what is constant goes below what was published.
    assert rows[-1]["param_equivalents"] < published["param_equivalents"]


def test_user_error_ends_with_code_2_and_no_traceback(capsys):
    with pytest.raises(SystemExit) as exit:
        run.main([MAIN, "passes.1.weights=5", "--plan"])
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error and error.count("\n") == 1
