"""Training: every stage for a few steps, resume that continues exactly, and what stages promise."""

import json
import re
import shutil

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from skimage import data
from support.killed import killed

from compress import train
from compress.core.errors import UserError
from compress.data.presets import PRESETS
from compress.families.edge_sd_sr import EdgeSDSRSource
from compress.families.osediff import OSEDiffSource
from compress.networks import nano as nano_networks
from compress.process.resample import upsample
from compress.recipe.checkpoint import load_model, save_model
from compress.stages import base, latents
from compress.stages.recipe import TrainRecipe
from compress.stages.trainer import Trainer
from compress.training import losses, session
from compress.training.adversarial import PAIRED, Judged, adversarial
from compress.training.discriminator import patch_discriminator
from compress.training.ema import EMA
from compress.training.initialise import initialise
from compress.training.rates import cosine_with_warmup
from compress.training.soften import soften

STAGES = [
    {
        "stage": "autoencoder",
        "steps": 2,
        "batch": 2,
        "crop": 64,
        "lr": 1e-3,
        "losses": {"l1": 1.0, "kl": 1e-5},
    },
    {"stage": "latent", "steps": 2, "batch": 2, "crop": 64, "lr": 1e-3, "losses": {"l1": 1.0}},
    {
        "stage": "end_to_end",
        "steps": 4,
        "batch": 2,
        "crop": 64,
        "lr": 1e-3,
        "losses": {"mse": 1.0, "gan": 0.1},
    },
]
WIDTHS = {
    "latent_channels": 4,
    "unet_channels": [16] * 4,
    "vae_channels": [8] * 4,
    "encoder_channels": None,
}
PLAIN = {"down_block_types": ("DownBlock2D",) * 4, "up_block_types": ("UpBlock2D",) * 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("photographs")
    for name in ("astronaut", "coffee"):
        Image.fromarray(getattr(data, name)()).save(path / f"{name}.png")
    return path


@pytest.fixture
def recipe(folder, tmp_path, monkeypatch):
    """Of the smallest nano: least widths, one residual block where a level has two or three."""
    monkeypatch.setattr(base, "LATENT_POOL", 4)
    monkeypatch.setattr(nano_networks, "NANO_UNET", nano_networks.NANO_UNET | PLAIN)
    monkeypatch.setattr(nano_networks, "NANO_VAE", nano_networks.NANO_VAE | {"layers_per_block": 0})
    path = tmp_path / "train.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "tiny",
                "source": {"family": "osediff", "size": "nano"} | WIDTHS,
                "data": {"folders": [str(folder)]},
                "stages": STAGES,
            }
        )
    )
    return path


def call(*arguments):
    with pytest.raises(SystemExit) as exit:
        train.main([str(a) for a in arguments])
    return exit.value.code


def test_all_stages_and_resume(recipe, folder, tmp_path, monkeypatch, capsys):
    assert call(recipe, "--workdir", tmp_path / "a", "-o", tmp_path / "a.safetensors") == 0
    assert re.findall(r"^(\w+): \d+\.\d images/s$", capsys.readouterr().err, re.M) == [
        "0_autoencoder",
        "1_latent",
        "2_end_to_end",
    ]
    record = json.loads((tmp_path / "a.json").read_text())
    assert [s["stage"] for s in record["stages"]] == ["autoencoder", "latent", "end_to_end"]
    assert record["images"] == 2
    assert record["recipe"]["data"]["folders"] == [folder.name]
    assert all(s["log"][-1]["loss"] > 0 for s in record["stages"])
    assert "critic" in record["stages"][2]["log"][-1]

    # Killed in the last stage after a checkpoint, then started again.
    with monkeypatch.context() as patch:
        patch.setattr(session, "train", killed("2_end_to_end", 3, checkpoint_every=2))
        assert call(recipe, "--workdir", tmp_path / "b", "-o", tmp_path / "b.safetensors") == 130
    assert not (tmp_path / "b.safetensors").exists()
    assert call(recipe, "--workdir", tmp_path / "b", "-o", tmp_path / "b.safetensors") == 0
    a, b = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert a.keys() == b.keys()
    worst = max((a[k].float() - b[k].float()).abs().max().item() for k in a)
    assert worst <= 2e-3  # fp16 rounding of what the unbroken run gives
    # A blended stage ends between the weights that it began with and those of the unblended one.
    shutil.copytree(tmp_path / "a", tmp_path / "c", ignore=shutil.ignore_patterns("2_*"))
    assert (
        call(
            recipe,
            "stages.2.blend=0.25",
            "--workdir",
            tmp_path / "c",
            "-o",
            tmp_path / "c.safetensors",
        )
        == 0
    )
    start, whole, blended = (
        load_file(tmp_path / name)
        for name in (
            "a/1_latent.safetensors",
            "a/2_end_to_end.safetensors",
            "c/2_end_to_end.safetensors",
        )
    )
    moved, apart = (
        torch.cat([(other[k] - (start[k].lerp(whole[k], share))).flatten() for k in start]).norm()
        for other, share in ((whole, 0.0), (blended, 0.25))
    )
    assert apart < 0.05 * moved  # what sums in another order make of Adam's first steps
    model = load_model(tmp_path / "a.safetensors")
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 3, 128, 128)


def test_a_training_begins_with_the_weights_of_start(recipe, tmp_path):
    trained = OSEDiffSource(**WIDTHS)
    first = initialise(trained.build(), seed=7)
    file = tmp_path / "first.safetensors"
    save_model(first, file, trained, [], dtype=torch.float16)
    raw = yaml.safe_load(recipe.read_text()) | {"start": str(file)}
    trainer = Trainer(TrainRecipe.model_validate(raw), tmp_path / "work")
    stored = load_file(file)
    assert all(torch.equal(v, stored[k].float()) for k, v in trainer.model.state_dict().items())


def test_a_folder_that_began_with_other_weights_is_refused(recipe, tmp_path, capsys):
    source = OSEDiffSource(**WIDTHS)
    raw = yaml.safe_load(recipe.read_text())
    for seed in (1, 2):
        save_model(initialise(source.build(), seed), tmp_path / f"{seed}.safetensors", source, [])
    first = raw | {"start": str(tmp_path / "1.safetensors")}
    Trainer(TrainRecipe.model_validate(first), tmp_path / "work")
    Trainer(TrainRecipe.model_validate(first), tmp_path / "work")
    for other in ([f"start={tmp_path / '2.safetensors'}"], []):
        assert call(recipe, *other, "--workdir", tmp_path / "work") == 2
        assert "began with other weights" in capsys.readouterr().err


def test_start_of_another_structure_is_refused(recipe, tmp_path, capsys):
    file = tmp_path / "edge.safetensors"
    other = EdgeSDSRSource()
    save_model(initialise(other.build(), 0), file, other, [])
    assert call(recipe, f"start={file}", "--workdir", tmp_path / "work") == 2
    assert str(file) in capsys.readouterr().err


def nano(seed=0):
    return initialise(OSEDiffSource().build(), seed)


@torch.no_grad()
def test_soften_moves_the_image_towards_bicubic():
    model, crops = nano(), [torch.rand(1, 3, 64, 64) for _ in range(4)]
    lr = torch.rand(1, 3, 32, 32)
    before, state = model.network(lr), {k: v.clone() for k, v in model.state_dict().items()}
    taken = soften(model, crops, PRESETS["mild"], (0, 1), 0.25)
    moved, wanted = model.network(lr) - before, 0.25 * (upsample(lr) - before)
    assert 0.1 < taken < 1
    assert (moved - wanted).square().mean() < 0.9 * wanted.square().mean()
    # Nothing but the last convolution has changed.
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, state[k])}
    assert changed == {"decoder.decoder.conv_out.weight", "decoder.decoder.conv_out.bias"}
    again = nano()
    assert soften(again, crops, PRESETS["mild"], (0, 1), 0.25) == taken


def test_soften_refuses_a_decoder_that_ends_otherwise():
    model = EdgeSDSRSource().build()
    model = initialise(model, 0)
    with pytest.raises(UserError, match="does not end with a plain convolution"):
        soften(model, [torch.rand(1, 3, 256, 256)], PRESETS["mild"], (0,), 0.1)


@torch.no_grad()
def test_unit_latent_keeps_the_function():
    model, image = nano(), torch.rand(2, 3, 64, 64)
    before = model.decoder(model.encoder.encode(image * 2 - 1))
    deviation = latents.unit_latent(model, image)
    assert deviation > 0
    torch.testing.assert_close(
        model.decoder(model.encoder.encode(image * 2 - 1)), before, rtol=1e-3, atol=1e-4
    )
    assert model.encoder.encode(image * 2 - 1).std().item() == pytest.approx(1, rel=1e-3)


@torch.no_grad()
def test_signal_scale_starts_from_the_identity():
    model, lr = nano(), torch.rand(1, 3, 32, 32)
    clean = model.encoder(lr)
    latents.encode_at_signal_scale(model)
    torch.testing.assert_close(model.clean_latent(model.encoder(lr)), clean, rtol=1e-4, atol=1e-4)


def test_losses_by_hand():
    zero = torch.zeros(1, 4, 2, 2)
    assert losses.kl(zero, zero).item() == 0
    assert losses.kl(zero + 1, zero).item() == pytest.approx(0.5)
    assert losses.gan_generator(torch.zeros(3)).item() == pytest.approx(0.693147, abs=1e-5)
    assert losses.gan_discriminator(torch.full((3,), 20.0), torch.full((3,), -20.0)).item() < 1e-6
    # softplus(first - second) by hand: the generator's image must be taken for more real.
    paired = losses.gan_paired(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]))
    assert paired.item() == pytest.approx((0.313262 + 2.126928) / 2, abs=1e-5)


def test_the_patch_discriminator_sees_softness():
    """Sharp and soft images of the same scenes; with GroupNorm the loss stayed at its start."""
    torch.manual_seed(0)
    sharp = torch.rand(4, 3, 32, 32)
    soft = torch.nn.functional.avg_pool2d(sharp, 3, 1, 1)
    judge = patch_discriminator(width=8)
    assert judge(sharp).shape[1] == 1
    optimizer = torch.optim.Adam(judge.parameters(), lr=2e-3)
    for _ in range(40):
        optimizer.zero_grad()
        _, critic = adversarial(judge, list(judge.parameters()), Judged(sharp, soft), PAIRED)
        critic.backward()
        optimizer.step()
    assert critic.item() < 0.1  # ln 2 = 0.69 at chance


def test_lpips_from_a_file(shared, tmp_path):
    metric = losses.lpips(shared / "iqa" / "lpips_squeeze_v0.1.safetensors")
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    assert metric(image, image.detach()).item() == pytest.approx(0, abs=1e-6)
    value = metric(image, torch.rand(1, 3, 64, 64))
    value.sum().backward()
    assert value.item() > 0.05
    assert image.grad.abs().sum() > 0
    with pytest.raises(UserError, match="do not fit the 'alex' network"):
        losses.lpips(shared / "iqa" / "lpips_squeeze_v0.1.safetensors", "alex")
    with pytest.raises(UserError, match="do not exist"):
        losses.lpips(tmp_path / "none.safetensors")


def test_ema_and_schedule():
    parameter = torch.nn.Parameter(torch.zeros(2))
    ema = EMA([parameter], 0.9)
    with torch.no_grad():
        parameter.fill_(1.0)
    ema.update()
    assert ema.shadow[0][0].item() == pytest.approx(1 - 2 / 11)  # warm-up decay (1+1)/(10+1)
    ema.copy_to_model()
    assert parameter[0].item() == pytest.approx(1 - 2 / 11)
    factor = cosine_with_warmup(100, 10)
    assert factor(0) == pytest.approx(0.1)
    assert factor(10) == pytest.approx(1)
    assert factor(100) == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.folders=[no/such]", "no/such does not exist"),
        ("stages.0.losses={lpips: 1.0}", "lpips_weights"),
        ("stages.0.stpes=3", "did you mean 'steps'"),
        ("stages.0.crop=50", "multiple of 64"),
    ],
)
def test_mistakes(recipe, change, said, capsys, tmp_path):
    assert call(recipe, change, "--workdir", tmp_path / "w") == 2
    assert said in capsys.readouterr().err
