"""Sources at full size: all are there, their recipes fit them, and every cell says something."""

from pathlib import Path

import pytest
from bench.full_size_recipes import load_full_size

from compress.passes.quantize import Quantize
from compress.recipe.checkpoint import ALL_SOURCES, parse_source
from compress.recipe.shipped import find_recipe
from eval.results.full_size_grid import LEFT_OUT, UNMEASURED, grid, reasons
from eval.results.full_sizes import BY_LABEL, FULL_SIZES, PAPER, STRIP, W8A8, W8A16, WAYS
from eval.results.measurement import Short
from eval.results.measurements.full_sizes import BY_TARGET, why_empty
from eval.results.measurements.full_sizes import WAYS as EXPORTED
from export.targets.table import TARGETS

CELLS = [(one, way) for one in FULL_SIZES for way in EXPORTED]


def heads(text: str) -> list[str]:
    return [cell.strip() for cell in text.splitlines()[0].strip("|").split("|")]


def test_every_full_size_of_every_family_is_there():
    known = set()
    for family, config in ALL_SOURCES.items():
        form = config.model_fields.get("size")
        sizes = form.annotation.__args__ if form is not None else ()
        known.update((family, size) for size in sizes if size != "nano")
    assert {(one.source["family"], one.source["size"]) for one in FULL_SIZES} == known


def test_labels_are_unique():
    assert len(BY_LABEL) == len(FULL_SIZES)


@pytest.mark.parametrize("one", FULL_SIZES, ids=lambda one: one.label)
def test_a_source_has_recipes_of_its_own_size(one):
    parse_source(dict(one.source))
    for way in WAYS:
        recipe = load_full_size(one, way)
        if recipe is None:
            assert way not in (STRIP, W8A8, W8A16)
            continue
        assert recipe.source == parse_source(dict(one.source))
        quantised = [step for step in recipe.passes if isinstance(step, Quantize)]
        if way == STRIP:
            assert not quantised
        if way == W8A16:
            assert {step.activations for step in quantised} == {16}
    shipped = one.recipe(PAPER)
    assert shipped is None or Path(find_recipe(shipped.name)).is_file()


def test_every_cell_has_a_job_or_a_reason():
    jobs = {target: BY_TARGET[target].jobs(Short()) for target in BY_TARGET}
    keys = {target: {job.key for job in found} for target, found in jobs.items()}
    for target in set(TARGETS) - set(LEFT_OUT):
        for one, way in CELLS:
            named = f"{one.label}, {one.title(way)}" in keys.get(target, set())
            assert named == (why_empty(one, way, target) is None), (one.label, way, target)


def test_the_grid_has_a_line_for_every_source_and_recipe():
    text = grid({})
    assert heads(text)[2:] == [target for target in TARGETS if target not in LEFT_OUT]
    lines = text.splitlines()[2:]
    assert len(lines) == len(CELLS)
    assert all(UNMEASURED in line or "none: " in line for line in lines)
    assert "coreml: converted only" in reasons()
    assert "tensorrt: written only" in reasons()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"megabytes": 645.6, "parity_db": "101.2", "passed": True, "error": None},
            "646 MB, 101.2 dB",
        ),
        ({"megabytes": 645.6, "parity_db": "9.0", "passed": False}, "646 MB, 9.0 dB, too few"),
        ({"error": "too large: denoiser 2,663 MB, at most 2,147"}, "too large: denoiser"),
    ],
)
def test_a_measured_cell_says_size_and_parity_or_what_failed(row, said):
    one = FULL_SIZES[0]
    found = {"rows": [{**row, "job": f"{one.label}, {one.title(STRIP)}"}]}
    line = grid({"full_size_onnx": found}).splitlines()[2]
    assert said in line
    assert f"| {one.label} | {STRIP} |" in line
