"""Weights between two models of one structure, as a pass."""

import pytest
import torch
from support.tiny_model import quantised, tiny

from compress.core.errors import UserError
from compress.families.osediff import OSEDiffSource
from compress.model.passes import FitContext
from compress.passes.interpolate import Interpolate
from compress.passes.strip import Strip
from compress.recipe.checkpoint import save_model


@pytest.fixture
def faithful(tmp_path):
    save_model(tiny(seed=1), tmp_path / "model.safetensors", OSEDiffSource(), [])
    return tmp_path


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_weights_are_mixed(faithful, strength):
    model = tiny(seed=0)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    theirs = tiny(seed=1).state_dict()
    step = Interpolate(weights=str(faithful), strength=strength)
    step.convert(model)
    assert step.fit(model, FitContext(model))["strength"] == strength
    for name, value in model.state_dict().items():
        wanted = strength * own[name] + (1 - strength) * theirs[name]
        torch.testing.assert_close(value, wanted)
    if strength == 0:
        assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())
    assert "model.safetensors" in step.data_key()


def test_mistakes_are_sentences(faithful, tmp_path):
    step = Interpolate(weights=str(faithful))
    model = tiny()
    with pytest.raises(UserError, match="nowhere does not exist"):
        Interpolate(weights=str(tmp_path / "nowhere")).fit(model, FitContext(model))
    other = tiny()
    Strip().convert(other)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        step.fit(other, FitContext(other))
    with pytest.raises(UserError, match="put the pass interpolate before quantize"):
        step.convert(quantised(other))
