"""--knob of compress.upscale and of Python: what the nano InvSR has of its own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress import api, upscale
from compress.core.errors import UserError
from compress.families.resshift import ASSET as OTHER
from compress.recipe.plan import knobs
from compress.recipe.recipe import load_recipe
from compress.recipe.shipped import find_recipe

ASSET = OTHER.parent / "invsr_nano.safetensors"


@pytest.fixture(scope="module")
def photograph(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("knobs") / "a.png"
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(file)
    return file


def run(photograph: Path, out: Path, *words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        upscale.main([str(ASSET), str(photograph), "-o", str(out), "--device", "cpu", *words])
    return ended.value.code


def test_the_command_turns_the_noise(photograph, tmp_path):
    found = {}
    for name, words in {
        "default": [],
        "whole": ["--knob", "noise"],
        "none": ["--knob", "noise", "--strength", "0"],
        "itself": ["--knob", "weights", "--strength", "0", "--faithful", str(ASSET)],
    }.items():
        assert run(photograph, tmp_path / name, *words) == 0
        found[name] = np.asarray(Image.open(tmp_path / name / "a_x4.png"))
    np.testing.assert_array_equal(found["whole"], found["default"])
    np.testing.assert_array_equal(found["itself"], found["default"])
    model = api.load(ASSET)
    process = model.process
    turned = api.upscale(model, photograph, strength=0.0, knob="noise")
    # The command adds a margin to tiles that have none, which rounds elsewhere.
    assert np.abs(found["none"].astype(int) - turned).max() <= 1
    assert np.abs(found["none"].astype(int) - found["default"]).max() > 1
    assert model.process is process


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--knob", "steps", "--strength", "0.5"], "has no such knob; its own are noise"),
        (["--knob", "taste"], "choose one of outputs, noise, steps, weights"),
        (["--knob", "weights"], "belong together"),
        (["--faithful", "m"], "belong together"),
        (["--knob", "noise", "--route", "r"], "exclude each other"),
        (["--knob", "noise", "--backend", "onnxruntime"], "--knob is for torch only"),
        (["--knob", "weights", "--faithful", str(OTHER)], "has another structure"),
    ],
)
def test_mistakes_are_sentences(photograph, tmp_path, capsys, words, sentence):
    assert run(photograph, tmp_path, *words) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert "Traceback" not in told


def test_from_python_an_unknown_knob_is_a_sentence(photograph):
    with pytest.raises(UserError, match="choose outputs, noise or steps"):
        api.upscale(ASSET, photograph, knob="weights")


@pytest.mark.parametrize(
    ("recipe", "words", "told"),
    [
        ("sinsr_w8a8", [], "the process has no knob of its own"),
        ("passionsr_w8a8", [], "the process has no knob of its own"),
        ("invsr_w8a8", ["source.steps=3"], "an export has --knob noise, steps as well"),
        ("ccsr_w8a8", ["source.steps=6", "source.t_min=0.5"], "an export has --knob steps as well"),
    ],
)
def test_a_plan_says_which_there_are(recipe, words, told):
    assert told in knobs(load_recipe(find_recipe(recipe), words))
