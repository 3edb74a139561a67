"""DFOSD's training: from another nano, by LoRA, judged on latents; clean latents of photographs."""

import json

import pytest
import torch
from support.tiny_training import (
    WIDTHS,
    call,
    changed,
    check_learning,
    check_resume,
    photographs,
    prepared,
    recipe_of,
    smallest,
    stage_of,
    write,
)

from compress.core.errors import UserError
from compress.families.dfosd import DFOSDSource
from compress.families.osediff import OSEDiffSource
from compress.recipe.checkpoint import load_model, save_model
from compress.stages.clean import CleanLatents
from compress.training.initialise import initialise

LORA = {"rank": 4, "alpha": 4}
BESIDE = stage_of("hr_encoder", {"l1": 1.0, "latent": 0.1, "kl": 1e-4})
STAGE = stage_of(
    "dfosd",
    {"mse": 4.0, "frequency": 1.0, "gan": 0.01},
    steps=4,
    lora=LORA,
    gan_after=1,
    clean="hr_encoder",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture
def raw(folder, monkeypatch):
    smallest(monkeypatch)
    return recipe_of(folder, {"family": "dfosd"}, [BESIDE, STAGE])


@pytest.fixture
def osediff(raw, tmp_path):
    """The weight file of a nano OSEDiff."""
    source = OSEDiffSource(**WIDTHS)
    model = initialise(source.build(), 3)
    model.encoder.quant_conv.weight.data *= model.process.signal
    file = tmp_path / "osediff.safetensors"
    save_model(model, file, source, [])
    return file


def test_all_of_it_and_resume(raw, tmp_path, osediff, monkeypatch):
    recipe = write(raw | {"start": str(osediff)}, tmp_path / "r.yaml")
    work = check_resume(recipe, tmp_path, "1_dfosd", monkeypatch)
    record = json.loads((tmp_path / "a.json").read_text())
    beside, stage = (found["log"][-1] for found in record["stages"])
    assert set(beside) == {"step", "seconds", "loss", "l1", "latent", "kl"}
    assert set(stage) == {"step", "seconds", "loss", "mse", "frequency", "gan", "critic"}
    assert record["recipe"]["start"] == "osediff.safetensors"
    assert (work / "hr_encoder.safetensors").is_file()
    # The encoder of photographs lies beside the model, which it leaves alone.
    names = changed(work / "0_hr_encoder.safetensors", work / "1_dfosd.safetensors")
    assert names
    assert "denoiser.context" in names
    assert all(name.startswith("denoiser.") for name in names)
    assert not any("norm" in name or "lora" in name or name.endswith("bias") for name in names)
    model = load_model(tmp_path / "a.safetensors")
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 3, 128, 128)


def test_weights_on_the_way_have_lora_merged(raw, tmp_path, capsys):
    recipe = write(raw | {"stages": [STAGE | {"clean": "encoder"}]}, tmp_path / "r.yaml")
    assert call(recipe, "--workdir", tmp_path / "w") == 0
    (tmp_path / "w" / "0_dfosd.safetensors").unlink()
    out = tmp_path / "way.safetensors"
    assert call(recipe, "--workdir", tmp_path / "w", "--export-checkpoint", out) == 0
    assert set(load_model(out).state_dict()) == set(DFOSDSource(**WIDTHS).build().state_dict())


@pytest.mark.parametrize("lora", [LORA, None])
def test_the_loss_falls_and_only_the_unet_learns(raw, tmp_path, lora):
    stage = STAGE | {"lora": lora, "clean": "encoder"}
    trainer = check_learning(raw | {"stages": [stage]}, tmp_path / "w")
    learns = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert "denoiser.context" in learns
    assert all(name.startswith("denoiser.") for name in learns)
    pairs = {name for name in learns if ".lora_" in name}
    assert (learns == pairs | {"denoiser.context"}) if lora else not pairs


def test_the_encoder_of_photographs_learns_alone(raw, tmp_path):
    trainer = check_learning(raw | {"stages": [BESIDE]}, tmp_path / "w")
    assert not any(p.requires_grad for p in trainer.model.parameters())


def test_gradients_of_the_generator_go_through_the_judged_latent(raw, tmp_path):
    stages = [STAGE | {"losses": {"mse": 4.0, "gan": 1.0}, "clean": "encoder"}]
    trainer, stage, batch = prepared(raw | {"stages": stages}, tmp_path / "w")
    judged, _ = stage(batch, 0)
    judge, learns = stage.critic()
    assert 0 < sum(p.numel() for p in learns) < sum(p.numel() for p in judge.parameters())
    assert judged.told["timesteps"].shape == (2,)
    judge(judged.fake, **judged.told).mean().backward()
    grads = {n for n, p in trainer.model.named_parameters() if p.grad is not None}
    assert any("lora_B" in name for name in grads)
    assert not judged.real.requires_grad


@torch.no_grad()
@pytest.mark.parametrize("timestep", [399, 199])
def test_a_training_begins_as_the_nano_that_it_takes_over(raw, tmp_path, osediff, timestep):
    source = raw["source"] | {"timestep": timestep}
    trainer, _, _ = prepared(
        raw | {"start": str(osediff), "source": source, "stages": [BESIDE]}, tmp_path / "w"
    )
    other = load_model(osediff)
    lr = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(trainer.model.network(lr), other.network(lr), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_narrower_unet_is_cut(raw, tmp_path):
    wide = OSEDiffSource(**WIDTHS | {"unet_channels": [16, 48, 16, 16]})
    save_model(initialise(wide.build(), 3), tmp_path / "wide.safetensors", wide, [])
    source = raw["source"] | {"unet_channels": [16, 32, 16, 16]}
    start = {"start": str(tmp_path / "wide.safetensors"), "source": source, "stages": [BESIDE]}
    trainer, _, _ = prepared(raw | start, tmp_path / "w")
    assert trainer.model.network(torch.rand(1, 3, 32, 32)).isfinite().all()


def test_clean_latents_are_those_that_the_encoder_beside_learnt(raw, tmp_path):
    recipe = raw | {
        "stages": [BESIDE | {"steps": 60, "losses": {"latent": 1.0}, "lr": 3e-3}, STAGE]
    }
    path = write(recipe, tmp_path / "r.yaml")
    assert call(path, "--workdir", tmp_path / "w") == 0
    trainer, _, hr = prepared(recipe, tmp_path / "w", 1)
    clean = CleanLatents(trainer._stage_run(1, trainer.recipe.stages[1]))
    found = clean(hr)
    lr = torch.nn.functional.avg_pool2d(hr, 4)
    restored = trainer.model.values_before("decoder", trainer.model.given(lr))["clean_latent"]
    assert found.shape == restored.shape
    # In the model's units, though it learnt them in units of their deviation.
    assert (found - restored).square().mean() < 0.7 * restored.square().mean()
    apart = found.mean(dim=(0, 2, 3)) - restored.mean(dim=(0, 2, 3))
    assert apart.abs().max() < 0.5 * restored.std()


def start_of(tmp_path, **widths):
    source = OSEDiffSource(**WIDTHS | widths)
    save_model(initialise(source.build(), 0), tmp_path / "o.safetensors", source, [])
    return f"start={tmp_path / 'o.safetensors'}"


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        ({"unet_channels": [16, 16, 16, 16], "latent_channels": 8}, "has other widths"),
        ({"time_channels": 16}, "has 16 channels, this one 32; set source.time_channels"),
        ({"vae_channels": [8, 8, 8, 16]}, "its encoder has other widths; set source.encoder"),
        ({"unet_channels": [16, 16, 16, 16]}, "16, 16) with 4 cannot be cut from it; set source"),
    ],
)
def test_other_widths_are_told(raw, tmp_path, capsys, widths, said):
    source = raw["source"] | {"unet_channels": [32, 16, 16, 16]}
    recipe = write(raw | {"source": source, "stages": [BESIDE]}, tmp_path / "r.yaml")
    assert call(recipe, start_of(tmp_path, **widths), "--workdir", tmp_path / "w") == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("stages.0.lora={rank: 4}", "stage 'hr_encoder' trains nothing by lora; latent"),
        ("stages.1.blend=0.5", "blend keeps a part of whole weights"),
        ("stages.1.losses={mse: 1.0}", "gan_after is of the loss gan"),
        ("stages.1.gan_balance=true", "stage 'dfosd' has no gan_balance; decoder has"),
        ("stages.1.losses={kl: 1.0}", "stage 'dfosd' has no loss 'kl'"),
        (
            "stages.1.losses={ea_lpips: 1.0, gan: 1.0}",
            "uses the ea_lpips loss; give lpips_weights=",
        ),
        (
            "stages.1.losses={ea_dists: 1.0, gan: 1.0}",
            "uses the ea_dists loss; give dists_weights=",
        ),
        ("stages.1.lora={rank: 0}", "greater than 0"),
        ("start=no/such.safetensors", "start: no/such.safetensors does not exist"),
    ],
)
def test_mistakes(raw, tmp_path, capsys, change, said):
    recipe = write(raw, tmp_path / "r.yaml")
    assert call(recipe, change, "--workdir", tmp_path / "w") == 2
    assert said in capsys.readouterr().err


def test_the_encoder_beside_must_be_there(raw, tmp_path, capsys):
    recipe = write(raw | {"stages": [STAGE]}, tmp_path / "r.yaml")
    assert call(recipe, "--workdir", tmp_path / "w") == 2
    assert "list hr_encoder before the stages that need it" in capsys.readouterr().err


def test_a_full_size_takes_no_nano_over(osediff):
    source = DFOSDSource(size="full")
    with pytest.raises(UserError, match="begins with published files"):
        source.take_over(source.build(), load_model(osediff), "start: x")
