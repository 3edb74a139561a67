"""one_step: a chain becomes its first step, which distillation teaches the chain's result."""

import copy

import pytest
import torch
from support.call_by_call import watched
from support.parted_model import parted
from support.tiny_families import tiny_family

from compress.core.errors import UserError
from compress.families import FAMILIES
from compress.model.passes import FitContext
from compress.passes.distill import Distill
from compress.passes.one_step import OneStep
from compress.passes.strip import Strip
from compress.process.linear_steps import weighted_sum

CHAINS = ["invsr", "ccsr", "addsr", "dossr"]


def image(side: int = 16) -> torch.Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", CHAINS)
@torch.no_grad()
def test_what_is_left_is_the_first_step(family):
    chain = tiny_family(family, 2, autoencoder=False)
    values = chain.values_before("denoiser", chain.given(image()))
    _, seen = watched(chain, values)
    assert len(seen["denoiser"]) == 2
    model = copy.deepcopy(chain)
    OneStep().convert(model)
    clean, once = watched(model, model.values_before("denoiser", model.given(image())))
    assert len(once["denoiser"]) == 1
    (state, *_), (prediction,) = seen["denoiser"][0]
    terms = {"state": state, "prediction": prediction}
    expected = weighted_sum(model.process.first_clean, terms)
    torch.testing.assert_close(clean, expected, rtol=1e-4, atol=1e-4)
    assert all("timestep" not in call.inputs for call in model.wiring.calls)
    folded = copy.deepcopy(model)
    Strip().convert(folded)
    torch.testing.assert_close(
        folded.network(image()), model.network(image()), rtol=1e-3, atol=1e-4
    )


def test_noise_of_later_steps_goes():
    model = tiny_family("addsr", 2, autoencoder=False)
    assert len(model.noise.maps) == 2
    OneStep().convert(model)
    assert len(model.noise.maps) == 1
    assert model.wiring.call("noise").outputs == ("noise_0",)


def test_guidance_goes_with_its_prompt():
    source = FAMILIES["ccsr"](size="full", steps=10, t_min=0.5, guidance=4.5)
    model = source.build()
    OneStep().convert(model)
    assert model.wiring.call("text_encoder").outputs == ("context",)
    assert len(model.text_encoder.token_ids) == 1
    Strip().convert(model)


def test_what_cannot_be_one_step_says_so():
    with pytest.raises(UserError, match="takes one step already"):
        OneStep().convert(tiny_family("dfosd"))
    with pytest.raises(UserError, match="a LinearSteps, which does not say the clean latent"):
        OneStep().convert(parted())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["ccsr", "addsr"])
def test_distillation_lowers_the_distance_to_the_chain(family, tmp_path):
    source = tiny_family(family, 2)
    model = copy.deepcopy(source)
    OneStep().convert(model)
    config = Distill(
        stage="student",
        losses={"latent": 1.0},
        train=("denoiser.*", "control.*"),
        steps=10,
        batch=2,
        crop=64,
        lr=1e-3,
        precision="fp32",
        ema=0.0,
    )
    config.convert(model)
    lr = image()

    def distance() -> float:
        with torch.no_grad():
            found, wanted = (one.latent_of(one.given(lr)) for one in (model, source))
        return (found - wanted).abs().mean().item()

    before = distance()
    config.fit(model, FitContext(source=source, workdir=tmp_path))
    assert distance() < 0.98 * before
    assert model.noise.place == (0, 0)
