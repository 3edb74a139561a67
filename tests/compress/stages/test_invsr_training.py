"""InvSR's training: the noise predictor learns, the UNet does not."""

import json

import pytest
import torch
from support.tiny_training import (
    call,
    changed,
    check_learning,
    check_resume,
    network_of,
    osediff_start,
    photographs,
    prepared,
    recipe_of,
    smallest,
    stage_of,
    write,
)

from compress.networks.latent_judge import LARGEST, LatentJudge
from compress.recipe.checkpoint import load_model

LOSSES = {"latent": 1.0, "l1": 1.0, "gan": 0.1}
STAGE = stage_of("invsr", LOSSES, steps=4, gan_after=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture
def raw(folder, monkeypatch):
    smallest(monkeypatch)
    return recipe_of(folder, {"family": "invsr", "steps": 2}, [STAGE])


def test_all_of_it_and_resume(raw, tmp_path, monkeypatch):
    recipe = write(raw, tmp_path / "r.yaml")
    work = check_resume(recipe, tmp_path, "0_invsr", monkeypatch)
    log = json.loads((tmp_path / "a.json").read_text())["stages"][0]["log"][-1]
    assert set(log) == {"step", "seconds", "loss", *LOSSES, "critic"}
    again = write(raw | {"start": str(work / "0_invsr.safetensors")}, tmp_path / "s.yaml")
    assert call(again, "--workdir", tmp_path / "c", "stages.0.steps=1") == 0
    names = changed(work / "0_invsr.safetensors", tmp_path / "c" / "0_invsr.safetensors")
    assert names
    assert all(name.startswith("noise_predictor.") for name in names)
    assert load_model(tmp_path / "a.safetensors")(torch.rand(1, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize("losses", [{"latent": 1.0}, {"mse": 1.0, "frequency": 0.1}])
def test_the_loss_falls_and_only_the_predictor_learns(raw, tmp_path, losses):
    stage = stage_of("invsr", losses)
    trainer = check_learning(raw | {"stages": [stage]}, tmp_path / "w")
    learns = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert learns
    assert all(name.startswith("noise_predictor.") for name in learns)


def test_the_discriminator_is_told_text_and_timestep(raw, tmp_path):
    trainer, stage, batch = prepared(raw, tmp_path / "w")
    judge, learns = stage.critic()
    assert isinstance(judge, LatentJudge)
    assert len(learns) == len(list(judge.parameters()))
    torch.manual_seed(0)
    judged, _ = stage(batch, 0)
    assert set(judged.told) == {"context", "timestep"}
    assert set(judged.told["timestep"].tolist()) <= {199, 99}
    assert judged.fake.abs().max() <= LARGEST
    maps = judge(judged.fake, **judged.told)
    torch.stack([map_.mean() for map_ in maps]).sum().backward()
    reached = {n for n, p in trainer.model.named_parameters() if p.grad is not None}
    assert reached
    assert all(name.startswith("noise_predictor.") for name in reached)


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 2])
def test_a_training_begins_as_the_nano_that_it_takes_over(raw, tmp_path, steps):
    start = osediff_start(tmp_path)
    source = raw["source"] | {"steps": steps, "latent_scale": 0.2}
    model, image = network_of(raw | {"start": str(start), "source": source}, tmp_path / "w")
    lr = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    noise = model.noise_predictor
    assert noise(lr).abs().max() == 0
    assert noise.moments(lr)[1].max() == -10
    if steps == 1:  # a second call of the UNet is not what the other one did
        expected = load_model(start).network(lr)
        torch.testing.assert_close(image, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("stages.0.losses={kl: 1.0}", "stage 'invsr' has no loss 'kl'"),
        ("stages.0.losses={latent_lpips: 1.0}", "give latent_lpips_weights=FILE"),
        ("stages.0.lora={rank: 4}", "stage 'invsr' trains nothing by lora"),
        (
            "stages.0.stage=edge_encoder",
            "does not fit the family 'invsr'; it is trained in hr_encoder",
        ),
        ("stages.0.encoder=frozen", "cannot hold the encoder still"),
    ],
)
def test_mistakes(raw, tmp_path, capsys, change, said):
    recipe = write(raw | {"stages": [stage_of("invsr", {"latent": 1.0})]}, tmp_path / "r.yaml")
    assert call(recipe, change, "--workdir", tmp_path / "w") == 2
    assert said in capsys.readouterr().err
