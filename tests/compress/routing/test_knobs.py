"""The knobs that a model has of its own: their ends are exact, and what lies between."""

from dataclasses import replace

import pytest
import torch
from support.tiny_families import tiny_family
from support.tiny_model import tiny

from compress.core.errors import UserError
from compress.families.resshift import ResShiftSource
from compress.model.sr_model import SRModel
from compress.photographs import batch
from compress.process.knobs import KNOBS, NOISE, OUTPUTS, STEPS, WEIGHTS, place_of, shortened
from compress.process.linear_steps import LinearSteps, Row
from compress.routing.adaptive import AdaptiveSteps
from compress.routing.knobs import EarlyEnd, exported_knobs, own_knobs, said, turn, turned

FAMILIES = {"ccsr": 2, "addsr": 3, "dossr": 3, "invsr": 2}
LR = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def resshift(**keys) -> SRModel:
    source = ResShiftSource(**{"model": "resshift", "steps": 4, **keys})
    model = source.build()
    source.load(model)
    return model


@pytest.fixture(scope="module")
def chain() -> SRModel:
    """Four steps of the embedded student's network: what they make is of no matter here."""
    return resshift()


def clean_latents(model: SRModel) -> list[torch.Tensor]:
    """What each call of a model's whole chain tells."""
    found = []
    whole = model.process
    watching = AdaptiveSteps(whole)
    watching.watch = lambda _place, clean: found.append(clean)
    model.put_process(watching)
    model.network(LR)
    model.put_process(whole)
    return found


def latent_at(model: SRModel, knob: str, strength: float) -> torch.Tensor:
    with turned(model, knob, strength):
        return model.latent_of(model.given(LR))


@pytest.mark.parametrize("family", [*FAMILIES, "resshift"])
@torch.no_grad()
def test_steps_end_at_what_a_call_tells(family, chain):
    model = chain
    if family != "resshift":
        model = tiny_family(family, FAMILIES[family], autoencoder=False)
    assert STEPS in own_knobs(model.process)
    told = clean_latents(model)
    last = len(told) - 1
    whole = model.process
    assert torch.equal(latent_at(model, STEPS, 0.0), told[0])
    assert model.process is whole
    assert torch.equal(latent_at(model, STEPS, 1.0), model.latent_of(model.given(LR)))
    half = latent_at(model, STEPS, 0.5 / last)
    if last > 1:
        torch.testing.assert_close(half, (told[0] + told[1]) / 2)
        torch.testing.assert_close(latent_at(model, STEPS, 1 / last), told[1])
    near = latent_at(model, STEPS, 1 - 1e-6)
    torch.testing.assert_close(near, latent_at(model, STEPS, 1.0), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_fewer_calls_are_made(chain):
    calls = []
    handle = chain.denoiser.register_forward_hook(lambda *_: calls.append(1))
    for strength, count in ((0.0, 1), (0.3, 2), (1 / 3, 2), (0.5, 3), (1.0, 4)):
        calls.clear()
        latent_at(chain, STEPS, strength)
        assert len(calls) == count
    handle.remove()


def test_where_a_chain_ends():
    assert place_of(5, 0.0) == (0, 1.0)
    assert place_of(5, 0.5) == (2, 1.0)
    assert place_of(5, 0.625) == (3, 0.5)
    assert place_of(5, 1.0) == (4, 1.0)


@pytest.mark.parametrize("strength", [0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("family", ["ccsr", "dossr", "invsr"])
@torch.no_grad()
def test_a_host_s_shorter_list_of_steps_is_the_same(family, strength):
    model = tiny_family(family, 3, autoencoder=False)
    whole = model.process
    assert isinstance(whole, LinearSteps)
    assert exported_knobs(whole) == own_knobs(whole)
    steps = [
        {"timestep": row.timestep, "factors": row.factors, "clean": whole.ladder.clean_of(place)}
        for place, row in enumerate(whole.rows)
    ]
    rows = tuple(Row(step["timestep"], step["factors"]) for step in shortened(steps, strength))
    wanted = latent_at(model, STEPS, strength)
    model.put_process(replace(whole, rows=rows))
    torch.testing.assert_close(model.latent_of(model.given(LR)), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("keys", [{}, {"sampler": "deterministic"}])
@torch.no_grad()
def test_without_noise_a_residual_chain_begins_at_the_input(keys):
    model = resshift(**keys)
    whole = latent_at(model, NOISE, 1.0)
    assert torch.equal(whole, model.latent_of(model.given(LR)))
    half = latent_at(model, NOISE, 0.5)
    found = latent_at(model, NOISE, 0.0)
    own = model.process.noise
    model.process.noise = torch.zeros_like(own)
    assert torch.equal(found, model.latent_of(model.given(LR)))
    model.process.noise = own / 2
    assert torch.equal(half, model.latent_of(model.given(LR)))
    assert not torch.equal(half, whole)


@pytest.mark.parametrize("steps", [1, 3])
@torch.no_grad()
def test_without_noise_inversion_begins_at_the_latent(steps):
    model = tiny_family("invsr", steps, autoencoder=False)
    assert NOISE in own_knobs(model.process)
    found = latent_at(model, NOISE, 0.0)
    values = model.before_process(model.given(LR))
    values["start_noise"] = torch.zeros_like(values["start_noise"])
    torch.testing.assert_close(found, model.restore(values))
    assert not torch.equal(found, latent_at(model, NOISE, 1.0))


def test_what_a_model_lacks_is_a_sentence(chain):
    for knob in (NOISE, STEPS):
        with pytest.raises(UserError, match=rf"--knob {knob}: .* has no such knob; it has none"):
            turn(tiny(), knob, 0.5)
    with pytest.raises(UserError, match="of 1 step, has no such knob; its own are noise"):
        turn(tiny_family("invsr", 1, autoencoder=False), STEPS, 0.5)
    assert own_knobs(resshift(model="sinsr").process) == ()
    with pytest.raises(UserError, match="give --faithful MODEL"):
        turn(tiny(), WEIGHTS, 0.5)
    walked = resshift()
    walked.put_process(AdaptiveSteps(walked.process))
    assert own_knobs(walked.process) == ()
    assert said(chain.process).endswith("an export has the blend of outputs alone")
    assert said(tiny().process).endswith("no knob of its own")


@torch.no_grad()
def test_weights_lie_on_a_line(chain):
    own, faithful = tiny(seed=0), tiny(seed=1)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    theirs = faithful.state_dict()
    for strength in (0.0, 0.25, 1.0):
        with turned(own, WEIGHTS, strength, faithful):
            for name, value in own.state_dict().items():
                wanted = strength * before[name] + (1 - strength) * theirs[name]
                torch.testing.assert_close(value, wanted)
                if strength in (0.0, 1.0):
                    assert torch.equal(value, before[name] if strength else theirs[name])
    for name, value in own.state_dict().items():
        assert torch.equal(value, before[name])
    with pytest.raises(UserError, match="another structure"):
        turn(own, WEIGHTS, 0.5, chain)


def test_outputs_are_blended_elsewhere(chain):
    whole = chain.process
    turn(chain, OUTPUTS, 0.5)
    assert chain.process is whole
    assert isinstance(EarlyEnd(whole, 0.5), torch.nn.Module)
    assert batch.KNOBS == KNOBS
