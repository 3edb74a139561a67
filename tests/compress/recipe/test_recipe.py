"""Recipes: every shipped one is planned; every mistake gets a sentence with the remedy."""

import json
import re
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import yaml
from PIL import Image

from compress import run
from compress.core.errors import UserError
from compress.cost.cost import Cost
from compress.cost.count import measure
from compress.families.osediff import OSEDiffSource
from compress.pipeline import runner
from compress.recipe import plan as planning
from compress.recipe.checkpoint import FAMILIES, convert_all, dump, parse_source
from compress.recipe.plan import plan
from compress.recipe.recipe import load_recipe, parse_recipe, to_yaml

RECIPES = sorted(Path("recipes").glob("**/*.yaml"))
MAIN = "recipes/passionsr_w8a8.yaml"
CHAINS = ("dfosd", "invsr", "ccsr", "addsr", "dossr", "tsdsr")


@cache
def cost_of_source(source: str) -> Cost:
    """By the source as JSON, because most recipes have the same."""
    return measure(parse_source(json.loads(source)).build())


@pytest.fixture
def uncounted(monkeypatch):
    """Plans whose costs are all those of the nano: what is refused does not depend on them."""
    cost = cost_of_source(OSEDiffSource().model_dump_json())
    monkeypatch.setattr(planning, "measure", lambda model, lr_size: cost)


@cache
def written(path):
    return yaml.safe_load(path.read_text())


def is_run_recipe(path):
    return "passes" in written(path)


def stored(model) -> int:
    """Bytes of all values."""
    return sum(x.numel() * x.element_size() for x in (*model.parameters(), *model.buffers()))


@cache
def stored_in_source(source: str) -> int:
    """By the source as JSON, as above."""
    return stored(parse_source(json.loads(source)).build())


def form(path):
    """Source and passes, without bits and methods."""
    recipe = written(path)
    steps = [(step["pass"], step.get("placement")) for step in recipe["passes"]]
    return recipe["source"]["family"], *steps


RUN_RECIPES = [path for path in RECIPES if is_run_recipe(path)]
# At full size these are counted as well; for the others the nano says what bits make of the cost.
FIRST_OF_ITS_FORM = list({form(path): path for path in reversed(RUN_RECIPES)}.values())
# Every recipe is built below. These are planned as well: codes, one bit, fewer channels, fewer
# calls; and at full size one of each family. The rest of the two lists is for `make test-all`.
PLANNED = {
    "nano": ("adaptive_steps", "adcsr_paper", "bimacosr", "passionsr_w8a8"),
    "full size": (
        "adcsr_binary",
        "adcsr_w8a8",
        "addsr_one_step",
        "ccsr_pruned",
        "dfosd_w8a8",
        "dossr_depth_w8a8",
        "edge_sd_sr_w8a8",
        "invsr_light",
        "sinsr_w8a8",
        "spandrel_w8a8",
        "tinysr",
    ),
}
PLANS = [
    pytest.param(
        path,
        size,
        id=f"{size}-{path.stem}",
        marks=[]
        if path.stem in short and path.parent.name == "recipes"
        else pytest.mark.exhaustive,
    )
    for size, short in PLANNED.items()
    for path in RUN_RECIPES
]


def sizes(source: type) -> list[str | None]:
    """Those that a source has; None alone for a source of one size."""
    if "size" not in source.model_fields:
        return [None]
    return list(get_args(source.model_fields["size"].annotation))


@pytest.mark.slow
@pytest.mark.parametrize("path", RUN_RECIPES, ids=lambda p: p.stem)
def test_shipped_recipes_are_built(path):
    """In the size that they name: each pass acts on what is before it and adds no storage."""
    recipe = load_recipe(path)
    if recipe.source.family == "spandrel":
        pytest.importorskip("spandrel")
    before = stored_in_source(recipe.source.model_dump_json())
    after = stored(convert_all(recipe.source, recipe.passes))
    if [step.pass_ for step in recipe.passes] == ["adaptive_steps"]:  # it leaves out calls alone
        assert after == before
    else:
        assert after < before


def test_a_recipe_of_every_family_is_planned_at_full_size():
    families = {path.stem: form(path)[0] for path in RUN_RECIPES}
    assert {families[name] for name in PLANNED["full size"]} == set(families.values())


@pytest.mark.slow
@pytest.mark.parametrize(("path", "size"), PLANS)
def test_shipped_recipes_plan(path, size):
    known = sizes(type(load_recipe(path).source))
    if known == [None]:
        pytest.importorskip("spandrel")
        recipe = load_recipe(path)
    else:
        size = size if size in known else next(size for size in known if size != "nano")
        recipe = load_recipe(path, [f"source.size={size}"])
    if size in ("nano", "full size"):
        rows = plan(recipe)
        assert len(rows) == 1 + len(recipe.passes)
        before, after = rows[0][1], rows[-1][1]
    else:
        model = convert_all(recipe.source, recipe.passes)
        if recipe.source.family in CHAINS:
            # Counting would run every network of full size at every step.
            assert stored(model) < stored(recipe.source.build())
            return
        if path not in FIRST_OF_ITS_FORM:
            return
        before, after = cost_of_source(recipe.source.model_dump_json()), measure(model)
    # A pass that quantises or folds never adds storage; one that leaves out calls keeps it.
    if {step.pass_ for step in recipe.passes} == {"adaptive_steps"}:
        assert after.bytes == before.bytes
    else:
        assert after.bytes < before.bytes
    assert after.macs_equivalent <= before.macs_equivalent


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stored_header_gives_its_source_back(family):
    """A header names every field; at no size may one that the user never set be refused."""
    for size in sizes(FAMILIES[family]):
        source = FAMILIES[family](**({} if size is None else {"size": size}))
        assert parse_source(json.loads(json.dumps(dump(source)))) == source


def test_widths_belong_to_nano():
    with pytest.raises(
        UserError,
        match="latent_channels is of size 'nano'; the architecture of a full size is published",
    ):
        parse_source({"family": "osediff", "size": "sd21", "latent_channels": 16})
    assert parse_source({"family": "osediff", "latent_channels": 16}).latent_channels == 16


def test_every_recipe_is_named_in_the_pages_about_recipes():
    pages = Path("docs/recipes.md").read_text() + Path("docs/train.md").read_text()
    assert not [p.name for p in RECIPES if p.name not in pages]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "source.sise=nano",
            r"sise: unknown key \(did you mean 'size'\?\); valid keys: family, size",
        ),
        ("passes.1.wieghts=8", r"wieghts: unknown key \(did you mean 'weights'\?\)"),
        ("passes.1.weights=5", "5 bits are not supported; choose one of 4, 6, 8, 16"),
        ("passes.1.pins={a: 3}", "pin 'a': 3 bits are not supported"),
        ("passes.0.pass=stripp", r"pass 'stripp' is unknown \(did you mean 'strip'\?\)"),
        (
            "passes.1.calibration.imges=3",
            r"calibration.imges: unknown key \(did you mean 'images'\?\)",
        ),
        ("source.family=osedif", r"family 'osedif' is unknown \(did you mean 'osediff'\?\)"),
        ("passes.1.components=[En coder]", "components.0"),
        ("nmae=x", r"nmae: unknown key \(did you mean 'name'\?\)"),
        ("passes=3", "must be a list"),
        ("passes=[strip]", "must be a mapping"),
        ("passes.7.x=1", "no index into a list of 2"),
        ("name.x=1", "single value"),
        ("oops", "not of the form key=value"),
    ],
)
def test_mistakes_get_a_sentence(change, said):
    with pytest.raises(UserError, match=said):
        load_recipe(MAIN, [change])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("export=[{target: onnx, lr_size: [7, 7]}]", "export.0: lr size 7x7 .* multiples of"),
        (
            "export=[{target: onnx, components: [encodr]}]",
            r"component 'encodr' is unknown \(did you mean 'encoder'\?\)",
        ),
        (
            "passes.1.components=[encodr]",
            r"this model has no encodr \(did you mean 'encoder'\?\); its components are encoder, ",
        ),
        ("export=[{target: onxx}]", r"'onxx' is unknown \(did you mean 'onnx'\?\)"),
        ("export=[{target: onnx, dtype: w7a7}]", "has no w7a7"),
        ("export=[{target: onnx, dtype: w8a16}]", "the model is quantised"),
        ("export=[{target: qnn, chip: snapdragon}]", "chip 'snapdragon' is unknown"),
        ("export=[{target: onnx, chip: v75}]", "chip is an option of target qnn"),
        (
            "export=[{target: onnx, rewrite: qqnn}]",
            r"rewrite 'qqnn' is unknown \(did you mean 'qnn'\?\)",
        ),
        ("export=[{target: onnx, low_bits: int2}]", "this model has none"),
        ("export=[{target: openvino, dynamic: true}]", "static shapes only"),
        ("export=[{target: tensorrt}]", "cannot take the ranges of the quantize pass"),
        (
            "export=[{target: onnx, lr_size: [4096, 4096]}]",
            "no embedded photograph holds a crop of 16384 pixels",
        ),
        ("eval.metrics=[psnrr]", r"metric 'psnrr' is unknown \(did you mean 'psnr'\?\)"),
    ],
)
@pytest.mark.usefixtures("uncounted")
def test_mistakes_after_the_passes_show_in_the_plan(change, said, capsys):
    with pytest.raises(SystemExit) as exit:
        run.main([MAIN, change, "--plan"])
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert re.search(said, error)
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("eval.iqa_weights=NONE", "eval.iqa_weights '.*NONE': no such folder"),
        ("eval.data=[NONE]", "eval.data.0: --data .*NONE: no such folder"),
        (
            "eval.data=[embedded, embedded]",
            "eval.data.1: the results of two data sets would lie in eval/embedded",
        ),
        ("eval.data=[A/x, B/x]", "eval.data.1: the results of two data sets would lie in eval/x"),
        ("passes.1.calibration.data=NONE", "passes.1: .*NONE: no such folder"),
        ("passes.1.calibration.data=EMPTY", "passes.1: .*EMPTY: holds no image"),
        ("passes.1.calibration.data=BROKEN", "passes.1: .*BROKEN/a.png: not an image"),
        ("passes.1.calibration.size=900", "passes.1: no embedded photograph holds a crop of 3600"),
        ("passes.1.calibration.images=0", "passes.1: calibration.images is 0"),
        (
            "passes.1={pass: distill, stage: decoder, losses: {lpips: 1}, steps: 1, "
            "lpips_weights: NONE}",
            "passes.1: lpips_weights '.*NONE' is no file",
        ),
        (
            "passes.1={pass: distill, stage: decoder, losses: {l1: 1}, steps: 1, "
            "data: {folders: [NONE]}}",
            "passes.1: data folder .*NONE does not exist",
        ),
    ],
)
@pytest.mark.usefixtures("uncounted")
def test_what_is_missing_shows_before_the_first_pass(change, said, tmp_path, monkeypatch, capsys):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "BROKEN").mkdir()
    (tmp_path / "BROKEN" / "a.png").write_text("no image", encoding="utf-8")
    for folder in ("A/x", "B/x"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / folder / "a.png")
    for name in ("NONE", "EMPTY", "BROKEN", "A/x", "B/x"):
        change = change.replace(name, str(tmp_path / name))

    def began(*_):
        raise AssertionError("a pass began")

    monkeypatch.setattr(runner, "compress", began)
    with pytest.raises(SystemExit) as exit:
        run.main([MAIN, "export=[]", change, "--out", str(tmp_path / "run"), "--no-cache"])
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert re.search(said, error)
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("name=../x", "name: .*'../x'"),
        ("name=", "valid string"),
        ("name=12", "put it in quotes"),
        ("seed=-1", "seed: .*greater than or equal to 0"),
        ("seed=2147483648", "less than or equal to 2147483647"),
        ("seed=true", "takes a number, got true"),
        ("seed=1:30", "valid integer"),
        ("passes.0.pass={a: b}", "pass must be a word"),
        ("source.family=[a]", "family must be a word"),
        ("passes.0={pass: decoder_light, size: {}}", "passes.0: size"),
    ],
)
def test_mistakes_in_values(change, said):
    with pytest.raises(UserError, match=said):
        load_recipe(MAIN, [change])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("name=12", "put it in quotes"),
        ("seed=-1", "greater than or equal"),
        ("stages.0.steps=true", "takes a number"),
        ("stages.0.lr=1e400", "not finite"),
        ("source={family: {}}", "family must be a word"),
        ("stages=3", "valid list"),
        ("source.family=*x", "undefined alias"),
        ("stages.99.lr=1", "no index"),
    ],
)
def test_training_recipes_are_read_the_same_way(change, said, capsys):
    from compress import train

    with pytest.raises(SystemExit) as exit:
        train.main(["recipes/train/osediff_nano.yaml", change])
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert re.search(said, error)
    assert error.count("\n") == 1


@pytest.mark.parametrize("section", ["name", "source", "passes", "export", "eval"])
def test_sections_are_required(section):
    data = yaml.safe_load(Path(MAIN).read_text())
    del data[section]
    with pytest.raises(UserError, match=f"{section}.*required"):
        parse_recipe(data, "r.yaml")


def test_pattern_that_matches_nothing():
    recipe = load_recipe(MAIN, ["passes.1.skip=[encoder.nothing*]"])
    with pytest.raises(
        UserError, match=r"skip pattern 'encoder.nothing\*' matches no layer.*layers are named like"
    ):
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


@pytest.mark.slow
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
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert error.count("\n") == 1
