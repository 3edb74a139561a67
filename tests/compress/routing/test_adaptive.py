"""Adaptive steps: every family with several steps, in tiles, as a pass, trained and compared."""

import json
from itertools import pairwise

import pytest
import torch
from support.tiny_families import tiny_family

from compress import skip
from compress.core.errors import UserError
from compress.core.image import write_image
from compress.cost.count import measure
from compress.families.resshift import ASSET, ResShiftSource
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel, Tiling
from compress.passes.adaptive_steps import AdaptiveStepsPass
from compress.process.linear_steps import LinearSteps
from compress.process.walks import Rules
from compress.recipe.checkpoint import load_model, save_model
from compress.routing.adaptive import AdaptiveSteps, Chooser
from compress.routing.comparing_steps import against_even
from compress.routing.regressor_file import read_header
from compress.routing.step_labels import random_path

FAMILIES = {"ccsr": 2, "addsr": 3, "dossr": 3, "invsr": 2}


class Scripted(Chooser):
    """Gains by a list, one pair for each call after the first; 0 when it ends."""

    def __init__(self, rules: Rules, gains: list[tuple[float, float]]):
        super().__init__(rules, 1)
        self.script = gains

    def gains(self, steps, now, before, given, timestep):
        return self.script.pop(0) if self.script else (0.0, 0.0)


@pytest.fixture(scope="module")
def resshift() -> SRModel:
    """Four steps of the embedded student's network: what they make is of no matter here."""
    source = ResShiftSource(model="resshift", steps=4)
    model = source.build()
    source.load(model)
    return model


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_every_family_walks_its_whole_chain(family):
    model = tiny_family(family, FAMILIES[family], autoencoder=False)
    lr = torch.rand(1, 3, 32, 32)
    wanted = model.network(lr)
    model.process = AdaptiveSteps(model.process)
    torch.testing.assert_close(model.network(lr), wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_resshift_walks_its_whole_chain(resshift):
    lr = torch.rand(1, 3, 64, 64)
    wanted = resshift.network(lr)
    chain = resshift.process
    resshift.process = AdaptiveSteps(chain)
    found = resshift.network(lr)
    resshift.process = chain
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_each_tile_takes_its_own_steps(family):
    """Tiles of one and of three calls side by side, blended once; the walks are told."""
    model = tiny_family(family, FAMILIES[family], autoencoder=False)
    model.tiling = Tiling(tile=32, overlap=16)
    places = model.process.ladder.places
    chooser = Scripted(Rules((1, 1, 1, places), first=1), [])
    chooser.gains = lambda steps, now, before, given, timestep: (
        1.0 if now.mean() > 0 else 0.0,
        0.0,
    )
    process = AdaptiveSteps(model.process, chooser)
    model.process = process
    image = model(torch.rand(1, 3, 96, 96))
    assert image.shape == (1, 3, 384, 384)
    assert torch.isfinite(image).all()
    assert len(process.walks) == 4
    assert all(walk[0] == 0 for walk in process.walks)
    assert process.adaptive
    assert process.steps == places


@torch.no_grad()
def test_tiles_are_not_blended_between_steps(resshift):
    """One tile's clean latent far from any other is what the tile alone gives."""
    chain = resshift.process
    before = resshift.tiling
    resshift.process = AdaptiveSteps(chain, calls=2)
    resshift.tiling = Tiling(tile=64, overlap=32)
    lr = torch.rand(1, 3, 64, 128)
    image = resshift(lr)
    assert image.shape == (1, 3, 256, 512)
    assert len(resshift.process.walks) == 3
    assert set(resshift.process.walks) == {(0, 2)}
    resshift.process, resshift.tiling = chain, before


def test_a_saturated_tile_leaves_with_its_best_state():
    """The clean latent of the best place of the second half, not the last one."""
    from compress.process.epsilon_chains import renoised

    chain = renoised((999, 899, 799, 699, 599, 499, 399, 299))
    torch.manual_seed(0)
    values = [torch.randn(1, 4, 6, 6) for _ in chain.inputs]
    seen = {}

    def denoise(state, timesteps):
        return (state + timesteps.view(-1, 1, 1, 1) / 1000).sin()

    watched = AdaptiveSteps(chain)
    watched.watch = lambda place, clean: seen.update({place: clean})
    watched.restore(values[0], denoise, *values[1:])
    script = [(1, 0), (1, 0), (1, 0), (1, 0.01), (1, 0.02), (1, -0.001), (1, -0.9)]
    process = AdaptiveSteps(chain, Scripted(Rules((1, 1, 1, 1), first=1), script))
    found = process.restore(values[0], denoise, *values[1:])
    assert process.walks == [(0, 1, 2, 3, 4, 5, 6, 7)]
    torch.testing.assert_close(found, seen[5])  # 0.01 + 0.02 is the greatest sum


def test_a_plan_counts_the_longest_walk():
    model = tiny_family("dossr", 3)
    chain = model.process
    model.process = AdaptiveSteps(chain)
    whole = measure(model, (32, 32))
    model.process = AdaptiveSteps(chain, Scripted(Rules((1, 1, 1, 1), first=1), []))
    adaptive = measure(model, (32, 32))
    assert adaptive.calls["denoiser"] == whole.calls["denoiser"] == 3
    model.process = AdaptiveSteps(chain, calls=1)
    assert measure(model, (32, 32)).calls["denoiser"] == 1


def test_pass_with_even_calls_is_saved_and_loaded(tmp_path, resshift):
    step = AdaptiveStepsPass(calls=2)
    source = ResShiftSource(model="resshift", steps=4)
    model = source.build()
    source.load(model)
    step.convert(model)
    assert step.fit(model, FitContext(resshift)) == {"calls": 2}
    save_model(model, tmp_path / "model.safetensors", source, [step])
    loaded = load_model(tmp_path / "model.safetensors")
    lr = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(loaded(lr), model(lr))
    assert loaded.process.walks == [(0, 2)]


@torch.no_grad()
def test_even_calls_of_weighted_sums_stay_weighted_sums():
    """So that they export; and they are the walk over the same places."""
    model = tiny_family("dossr", 3, autoencoder=False)
    chain = model.process
    lr = torch.rand(1, 3, 32, 32)
    model.process = AdaptiveSteps(chain, calls=2)
    wanted = model.network(lr)
    model.put_process(chain)
    AdaptiveStepsPass(calls=2).convert(model)
    assert isinstance(model.process, LinearSteps)
    assert model.process.steps == 2
    torch.testing.assert_close(model.network(lr), wanted, rtol=1e-4, atol=1e-4)


def test_pass_refusals(resshift):
    with pytest.raises(ValueError, match="give `regressor`, for steps by tile, or `calls`"):
        AdaptiveStepsPass()
    with pytest.raises(UserError, match="of which none can be left out"):
        AdaptiveStepsPass(calls=1).convert(tiny_family("dfosd"))
    with pytest.raises(UserError, match="choose from 1 to them"):
        AdaptiveStepsPass(calls=9).convert(ResShiftSource(model="resshift", steps=4).build())


def test_random_paths_keep_to_the_rules():
    from random import Random

    rules = Rules((1, 2, 3, 4), first=2)
    for seed in range(20):
        path = random_path(rules, 15, Random(seed))
        assert path[:2] == (0, 2)
        assert path[-1] < 15
        steps = [later - earlier for earlier, later in pairwise(path[1:])]
        assert set(steps) <= {1, 2, 3, 4}


def test_even_steps_of_as_many_macs_lie_between_neighbours():
    figures = {
        "1 calls": {"gmacs": 10.0, "psnr": 24.0, "lpips": 0.30},
        "2 calls": {"gmacs": 20.0, "psnr": 25.0, "lpips": 0.20},
        "adaptive": {"gmacs": 15.0, "psnr": 24.8, "lpips": 0.22},
    }
    found = against_even(figures)
    assert found["psnr_more"] == pytest.approx(0.3)
    assert found["lpips_more"] == pytest.approx(-0.03)
    assert found["macs_of_even"] == pytest.approx(15 / 20)


def test_trained_and_compared_by_the_commands(tmp_path, capsys):
    """A regressor of few steps on the embedded photographs; then a pass reads it."""
    source = ResShiftSource(model="resshift", steps=4)
    model = source.build()
    source.load(model)
    save_model(model, tmp_path / "model.safetensors", source, [])
    file = tmp_path / "steps.safetensors"
    trained = [str(tmp_path / "model.safetensors"), "--data", "embedded", "-o", str(file)]
    few = ["--tiles", "10", "--steps", "4", "--batch", "2", "--device", "cpu", "--crop", "128"]
    with pytest.raises(SystemExit) as ended:
        skip.main(["train", *trained, *few, "--metrics", "psnr=0.5,nlpd=0.5,gmsd=0.1"])
    assert ended.value.code == 0
    assert "pass: adaptive_steps, regressor: " in capsys.readouterr().out
    header = read_header(file)
    assert list(header["metrics"]) == ["psnr", "nlpd", "gmsd"]
    assert header["metrics"]["nlpd"]["higher"] is False
    step = AdaptiveStepsPass(regressor=str(file), metrics=3)
    step.convert(model)
    figures = step.fit(model, FitContext(model))
    assert figures["most_calls"] == 4
    assert model.process.chooser.weights[0].tolist() == pytest.approx([0.5, 0.5, 0.1])
    save_model(model, tmp_path / "adaptive.safetensors", source, [step])
    lr = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(load_model(tmp_path / "adaptive.safetensors")(lr), model(lr))
    other = ResShiftSource(model="resshift", steps=4).build()
    wrong = AdaptiveStepsPass(regressor=str(file), metrics=4)
    wrong.convert(other)
    with pytest.raises(UserError, match="and here are 3 and 4; set `metrics`"):
        wrong.fit(other, FitContext(other))
    out = tmp_path / "figures.json"
    compared = ["eval", str(tmp_path / "model.safetensors"), str(file), "--data", str(tmp_path)]
    write_image(torch.rand(1, 3, 256, 256), tmp_path / "photo.png")
    with pytest.raises(SystemExit) as ended:
        skip.main([*compared, "--calls", "1,4", "-o", str(out)])
    assert ended.value.code == 0
    assert "adaptive against even steps of as many MACs" in capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert list(figures["ways"]) == ["1 calls", "4 calls", "adaptive"]
    assert figures["ways"]["4 calls"]["calls"] == 4
    assert figures["against_even"].keys() == {"psnr_more"}


def test_mistakes_of_the_command(tmp_path, capsys):
    call = ["train", str(ASSET), "--data", "embedded", "-o", str(tmp_path / "s.safetensors")]
    for metrics, says in (
        ("psnr=0", "with a weight above 0"),
        ("psmr=1", "did you mean 'psnr'"),
        ("fid=1", "has no value of one image"),
    ):
        with pytest.raises(SystemExit) as ended:
            skip.main([*call, "--metrics", metrics])
        assert ended.value.code == 2
        assert says in capsys.readouterr().err
