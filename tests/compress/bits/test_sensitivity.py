"""One layer at a time, and bits per layer.

Against the quantize pass itself, brute force, and the counted cost.
"""

import copy
import itertools
import json
from argparse import Namespace

import numpy as np
import pytest
import torch

from compress.bits import subject as subjects
from compress.bits import work
from compress.bits.allocate import Goal, allocate, amounts, choose, predicted_ms
from compress.bits.measure import measure_layers
from compress.bits.picture import draw
from compress.bits.probing import Stages, probed_layers
from compress.bits.progress import Progress
from compress.bits.subject import Subject, open_subject
from compress.bits.widths import Budget, everywhere, parse_budget, parse_width, pinned
from compress.bits.write import write_recipe
from compress.core.errors import UserError
from compress.cost.count import measure
from compress.cost.phones import rates
from compress.data.calibration import calibration_images
from compress.families.osediff import OSEDiffSource
from compress.model.passes import FitContext
from compress.passes.quantize import Quantize, Width
from compress.passes.strip import Strip
from compress.recipe.checkpoint import convert_all
from compress.recipe.recipe import load_recipe

# All but three convolutions, one of each component, so that a test takes a second.
KEPT = ("encoder.encoder.conv_out", "denoiser.unet.conv_in", "decoder.decoder.conv_in")
WIDTHS = [Width(weights=4, activations=4), Width(weights=8, activations=8)]
CROP = {"data": "embedded", "images": 1, "size": 16}


@pytest.fixture(scope="module")
def subject():
    source = OSEDiffSource()
    model = source.build()
    source.load(model)
    model.eval().requires_grad_(False)
    strip = Strip(text="constant", timestep="fold")
    strip.convert(model)
    everything = probed_layers(Quantize(), model)
    step = Quantize(
        method="minmax",
        skip=tuple(name for name in everything if name not in KEPT),
        calibration=CROP,
    )
    return Subject(source, [strip], step, model)


@pytest.fixture(scope="module")
def images():
    return calibration_images("embedded", 1, 16, seed=0)


@pytest.fixture(scope="module")
def rows(subject, images, tmp_path_factory):
    file = tmp_path_factory.mktemp("sensitivity") / "rows.jsonl"
    return measure_layers(subject, images, WIDTHS, Progress(file, "k"))


@pytest.mark.slow
def test_all_layers_are_probed_in_the_order_of_the_components(subject):
    assert probed_layers(subject.step, subject.model) == list(KEPT)


@pytest.mark.slow
@pytest.mark.parametrize("layer", KEPT)
def test_one_layer_alone_is_what_the_pass_makes_of_it(subject, images, rows, layer):
    """The quantize pass with every other layer skipped, calibrated on the same crop."""
    part = layer.partition(".")[0]
    others = tuple(
        name
        for name in (*subject.step.skip, *KEPT)
        if name != layer and name.startswith(f"{part}.")
    )
    step = Quantize(
        method="minmax",
        weights=8,
        pins={layer: 4},
        skip=others,
        calibration=CROP,
        components=(part,),
    )
    twin = copy.deepcopy(subject.model)
    step.convert(twin)
    step.fit(
        twin,
        FitContext(source=subject.model, seed=0, before=lambda name: copy.deepcopy(subject.model)),
    )
    with torch.no_grad():
        expected = (
            (twin.network(images[0]).clamp(0, 1) - subject.model.network(images[0]).clamp(0, 1))
            .square()
            .mean()
        )
    row = next(r for r in rows if r["layer"] == layer and r["width"] == "W4A4")
    assert row["mse"] == pytest.approx(expected.item(), rel=1e-2)


def test_fewer_bits_cost_more_and_the_model_is_left_alone(subject, images, rows):
    table = {(row["layer"], row["width"]): row["psnr"] for row in rows}
    assert len(table) == 6
    assert all(table[layer, "W4A4"] + 6 < table[layer, "W8A8"] for layer in KEPT)
    assert not any(hasattr(m, "weight_q") for m in subject.model.modules())


@pytest.mark.slow
def test_a_killed_run_goes_on(subject, images, rows, tmp_path, monkeypatch):
    file = tmp_path / "rows.jsonl"
    lines = [json.dumps(row) for row in rows[:4]]
    file.write_text("\n".join([json.dumps({"key": "k"}), *lines, '{"layer": "deco']))
    seen = []
    restore = Stages.restore
    monkeypatch.setattr(
        Stages, "restore", lambda self, part: seen.append(part) or restore(self, part)
    )
    again = measure_layers(subject, images, WIDTHS, Progress(file, "k"))
    assert len(seen) == 2
    assert [(r["layer"], r["width"]) for r in again] == [(r["layer"], r["width"]) for r in rows]
    assert [r["mse"] for r in again] == pytest.approx([r["mse"] for r in rows], rel=1e-4)


def test_rows_of_another_key_are_dropped(tmp_path, caplog):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"key": "old"}\n{"layer": "x"}\n')
    assert Progress(file, "new").read() == []
    assert json.loads(file.read_text()) == {"key": "new"}
    assert "measuring anew" in caplog.text


@pytest.mark.slow
def test_others_of_the_recipe_are_quantised_too(subject, images, tmp_path):
    coarse = Subject(
        subject.source,
        subject.before,
        subject.step.model_copy(update={"pins": {"*": 4}}),
        subject.model,
    )
    progress = Progress(tmp_path / "r.jsonl", "k")
    found = measure_layers(coarse, images, WIDTHS[1:], progress, others="recipe")
    assert len(found) == 3
    assert all(row["psnr"] < 50 for row in found)


def test_the_program_finds_what_brute_force_finds():
    random = np.random.default_rng(1)
    errors = np.sort(random.random((5, 3)), axis=1)[:, ::-1] * 1e-6
    costs = np.cumsum(random.integers(1, 9, (5, 3)), axis=1).astype(float)
    limit = costs.min(1).sum() + 0.4 * (costs.max(1).sum() - costs.min(1).sum())
    index = np.arange(5)
    best = min(
        errors[index, pick].sum()
        for pick in map(list, itertools.product(range(3), repeat=5))
        if costs[index, pick].sum() <= limit
    )
    found = choose(errors, costs, limit)
    assert costs[index, found].sum() <= limit
    assert errors[index, found].sum() == pytest.approx(best, rel=1e-4)


def test_a_budget_below_the_least_is_refused():
    with pytest.raises(
        UserError, match=r"below what the cheapest widths need, by a factor of 1.500"
    ):
        choose(np.zeros((3, 2)), np.array([[1.0, 2.0]] * 3), 2.0)


@pytest.mark.slow
def test_bytes_of_the_choice_are_the_counted_bytes(subject):
    widths = [Width(weights=w, activations=8) for w in (4, 6, 8)]
    table, rest = amounts(subject, list(KEPT), widths, Goal(parse_budget("2MB"), "", "psnr"))
    step = pinned(subject.step, dict(zip(KEPT, widths, strict=True)))
    cost = measure(convert_all(subject.source, [*subject.before, step]))
    assert table[0, 0] + table[1, 1] + table[2, 2] + rest == cost.bytes
    wide = measure(
        convert_all(subject.source, [*subject.before, everywhere(subject.step, widths[2])])
    )
    assert table[:, 2].sum() + rest == wide.bytes > cost.bytes


@pytest.mark.slow
def test_predicted_ms_of_the_choice_add_up(subject):
    widths = [Width(weights=8, activations=8), Width(weights=8, activations=16)]
    device = next(iter(rates()))
    goal = Goal(parse_budget("9ms"), device, "psnr")
    table, rest = amounts(subject, list(KEPT), widths, goal)
    step = pinned(subject.step, dict(zip(KEPT, (widths[0], widths[1], widths[0]), strict=True)))
    cost = measure(convert_all(subject.source, [*subject.before, step]))
    total = table[0, 0] + table[1, 1] + table[2, 0] + rest
    assert total == pytest.approx(predicted_ms(cost, device))
    assert (table[:, 1] > table[:, 0]).all()


@pytest.mark.slow
def test_a_recipe_and_a_picture_come_of_it(subject, images, rows, tmp_path):
    recipe = load_recipe("recipes/passionsr_w8a8.yaml")
    step = subject.step
    whole = Subject(subject.source, subject.before, step, subject.model, recipe, 1)
    widths = WIDTHS
    goal = Goal(parse_budget("1MB"), "", "psnr")
    table, rest = amounts(subject, list(KEPT), widths, goal)
    limit = (table.min(1).sum() + table.max(1).sum()) / 2 + rest
    goal = Goal(Budget(limit / 1e6, "MB"), "", "psnr")
    choice = allocate(whole, rows, widths, goal, images, None)
    assert choice.amount <= limit
    assert set(choice.widths.values()) == set(widths)
    write_recipe(whole, choice, tmp_path / "mixed.yaml", ["how"])
    assert (tmp_path / "mixed.yaml").read_text().splitlines()[1] == "# how"
    written = load_recipe(tmp_path / "mixed.yaml").passes[1]
    narrow = {name for name, width in choice.widths.items() if width.weights == 4}
    assert written.pins == dict.fromkeys(narrow, 4)
    assert written.weights == 8
    found = {
        "rows": rows,
        "choice": {"pins": {n: w.model_dump() for n, w in choice.widths.items()}},
    }
    assert draw(found, tmp_path / "p.png").stat().st_size > 5000


@pytest.mark.parametrize("text", ["5", "w4", "8a8", "W4A7", "four"])
def test_widths_that_are_none(text):
    with pytest.raises(UserError, match=f"--bits '{text}' is no width; write one of 4, 6, 8, 16"):
        parse_width(text)


def test_widths_and_budgets():
    assert parse_width("6") == Width(weights=6, activations=6)
    assert parse_width("w4A16") == Width(weights=4, activations=16)
    assert parse_budget("850KB").limit == 850e3
    assert parse_budget("2.5MB").limit == 2.5e6
    with pytest.raises(UserError, match="--budget '3GB' is none"):
        parse_budget("3GB")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"budget": "2MB", "bits": ["8"]}, "nothing to choose from"),
        ({"recipe": "x.yaml"}, "give a --budget"),
        ({"metric": "lpips"}, "give --lpips FILE"),
        ({"out": "x.txt"}, "ends in .json"),
    ],
)
def test_options_that_do_not_go_together(given, words):
    from pathlib import Path

    options = {
        "bits": ["4", "8"],
        "budget": None,
        "recipe": None,
        "metric": "psnr",
        "lpips": None,
        "out": "a.json",
    } | given
    with pytest.raises(UserError, match=words):
        work.check(Namespace(**options | {"out": Path(options["out"])}))


def test_a_recipe_without_a_quantize_pass(tmp_path):
    with pytest.raises(UserError, match="has no pass 'quantize'"):
        open_subject(
            "recipes/passionsr_w8a8.yaml",
            ["passes=[{pass: strip, text: constant}]"],
            tmp_path,
            tmp_path,
        )


def places_of(recipes, tmp_path, monkeypatch, compress):
    """The folders for checkpoints that `open_subject` gives to the passes of each recipe."""
    places = []

    def watched(recipe, cache, device, workdir):
        places.append(workdir)
        return compress(recipe, cache, device, workdir)

    monkeypatch.setattr(subjects, "compress", watched)
    for overrides in recipes:
        open_subject("minmax_w8a8", overrides, tmp_path / "cache", tmp_path)
    return places


@pytest.mark.slow
def test_checkpoints_of_two_recipes_have_folders_of_their_own(tmp_path, monkeypatch):
    """A recipe must not go on from what a killed call of another left beside the same -o."""
    places = places_of(
        [["seed=0"], ["seed=1"], ["seed=0"]], tmp_path, monkeypatch, subjects.compress
    )
    assert places[0] == places[2] != places[1]
    assert not any(place.exists() for place in places)


def test_checkpoints_of_a_killed_call_are_kept(tmp_path, monkeypatch):
    def killed(recipe, cache, device, workdir):
        (workdir / "pass_1").mkdir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        places_of([[]], tmp_path, monkeypatch, killed)
    assert [path.name for path in tmp_path.glob("*.work/*")] == ["pass_1"]
