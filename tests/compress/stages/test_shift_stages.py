"""Training ResShift and SinSR: a few steps of every stage, resume, and what the stages promise."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from skimage import data
from support.killed import killed

from compress import train
from compress.data.presets import PRESETS
from compress.families import resshift
from compress.families.resshift import ResShiftSource
from compress.recipe.checkpoint import load_model, read_header
from compress.stages import base
from compress.stages import shift as shift_stages
from compress.stages.images import Setting
from compress.training import session
from compress.training.initialise import initialise

COMMON = {"batch": 1, "crop": 128, "lr": 1e-3}
STAGES = [
    {"stage": "vq_autoencoder", "steps": 2, "losses": {"l1": 1.0}, **COMMON},
    {"stage": "vq_autoencoder", "steps": 2, "losses": {"l1": 1.0, "vq": 1.0}, **COMMON},
    {"stage": "resshift", "steps": 2, "losses": {"mse": 1.0, "l1": 0.1}, **COMMON},
    {
        "stage": "sinsr",
        "steps": 4,
        "losses": {"teacher": 1.0, "inverse": 1.0, "truth": 1.0},
        **COMMON,
    },
]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "LATENT_POOL", 2)
    Image.fromarray(data.astronaut()).save(tmp_path / "astronaut.png")
    path = tmp_path / "train.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "tiny",
                "source": {"family": "resshift", "steps": 4},
                "data": {"folders": [str(tmp_path)]},
                "stages": STAGES,
            }
        )
    )
    return path


def call(*arguments):
    with pytest.raises(SystemExit) as exit:
        train.main([str(a) for a in arguments])
    return exit.value.code


def test_all_stages_and_resume(recipe, tmp_path, monkeypatch):
    # Two levels, which the stages do not know from three; then smaller crops are enough.
    monkeypatch.setattr(resshift, "NANO_UNET", replace(resshift.NANO_UNET, multipliers=(1, 2)))
    recipe.write_text(recipe.read_text().replace("crop: 128", "crop: 64"))
    assert call(recipe, "--workdir", tmp_path / "a", "-o", tmp_path / "a.safetensors") == 0
    record = json.loads((tmp_path / "a.json").read_text())
    logs = [stage["log"][-1] for stage in record["stages"]]
    assert [set(log) - {"step", "seconds", "loss"} for log in logs] == [
        {"l1"},
        {"l1", "vq"},
        {"mse", "l1"},
        {"teacher", "inverse", "truth"},
    ]
    source, passes = read_header(tmp_path / "a.safetensors")
    assert (source.family, source.model, source.steps, passes) == ("resshift", "sinsr", 4, [])
    image = torch.rand(1, 3, 32, 32)
    assert load_model(tmp_path / "a.safetensors")(image).shape == (1, 3, 128, 128)
    # The stage before the student's leaves a teacher that runs all steps.
    teacher = ResShiftSource(
        model="resshift", steps=4, weights=str(tmp_path / "a" / "2_resshift.safetensors")
    )
    built = teacher.build()
    teacher.load(built)
    assert built(image).shape == (1, 3, 128, 128)

    # Killed in the last stage after a checkpoint, then started again.
    shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("3_*"))
    with monkeypatch.context() as patch:
        patch.setattr(session, "train", killed("3_sinsr", 3, checkpoint_every=2))
        assert call(recipe, "--workdir", tmp_path / "b", "-o", tmp_path / "b.safetensors") == 130
    assert call(recipe, "--workdir", tmp_path / "b", "-o", tmp_path / "b.safetensors") == 0
    a, b = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert a.keys() == b.keys()
    assert max((a[k].float() - b[k].float()).abs().max().item() for k in a) <= 2e-3


def nano():
    return initialise(ResShiftSource(steps=4).build(), 0).eval()


@torch.no_grad()
def test_codebook_starts_from_white_latents():
    model, crops = nano(), torch.rand(2, 3, 128, 128)
    before = model.decoder.tail(model.decoder.features(model.encoder.clean(crops), quantise=False))
    assert (shift_stages.start_codebook(model, crops) > 0).all()
    latent = model.encoder.clean(crops)
    vectors = latent.permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(vectors.mean(0), torch.zeros(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(torch.cov(vectors.T), torch.eye(3), rtol=0, atol=1e-2)
    after = model.decoder.tail(model.decoder.features(latent, quantise=False))
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)
    distance = torch.cdist(
        model.decoder.quantize.embedding.weight[:50],
        vectors,
        compute_mode="donot_use_mm_for_euclid_dist",
    )
    assert distance.amin(1).max() < 1e-4
    assert len(model.decoder.quantize.indices(latent).unique()) > 300


def test_codebook_and_encoder_learn_from_the_vq_loss():
    model, hr = nano(), torch.rand(1, 3, 128, 128)
    setting = Setting(model, {"l1": 1.0, "vq": 1.0}, {}, PRESETS["mild"], (0,))
    stage = shift_stages.VQAutoencoderStage(setting)
    assert "decoder.quantize" in stage.trained
    _, terms = stage(hr, 0)
    terms["vq"].backward(retain_graph=True)
    weight = model.encoder.quant_conv.weight
    assert model.decoder.quantize.embedding.weight.grad.abs().sum() > 0
    assert weight.grad.abs().sum() > 0
    weight.grad = None
    terms["l1"].backward()
    assert weight.grad.abs().sum() > 0  # through the codes
    setting = Setting(model, {"l1": 1.0}, {}, PRESETS["mild"], (0,))
    plain = shift_stages.VQAutoencoderStage(setting)
    assert "decoder.quantize" not in plain.trained
    assert set(plain(hr, 0)[1]) == {"l1"}


def test_student_starts_as_its_teacher():
    model = nano()
    stage = shift_stages.ShiftStudent(model, {"teacher": 1.0, "inverse": 1.0, "truth": 1.0})
    assert all(not name.startswith("taught_by") for name, _ in stage.named_parameters())
    y, lr, clean = torch.randn(3, 1, 3, 32, 32)
    torch.manual_seed(1)
    _, terms = stage(torch.cat([y, lr, clean], dim=1), 0)
    # By hand, from the schedule alone.
    torch.manual_seed(1)
    noise, schedule = torch.randn_like(y), model.process.schedule
    start = schedule.start(y, noise)

    @torch.no_grad()
    def denoise(x, t):
        return model.denoiser.unet(x, t, lr)

    *_, (taught, _) = schedule.deterministic(denoise, y, noise)
    assert terms["teacher"].item() == pytest.approx(
        (schedule.one_step(denoise, y, noise) - taught).square().mean().item(), rel=1e-4
    )
    inverse = denoise(taught / schedule.normaliser(3), torch.tensor([0]))
    assert terms["inverse"].item() == pytest.approx(
        (inverse - start).square().mean().item(), rel=1e-4
    )
    noisy = denoise(clean / schedule.normaliser(3), torch.tensor([0]))
    assert terms["truth"].item() == pytest.approx(
        (schedule.predict(denoise, noisy, 3) - clean).square().mean().item(), rel=1e-4
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("stages.0.stage=latent", "does not fit the family 'resshift'"),
        (
            "stages.0.losses={kl: 1.0}",
            "has no loss 'kl'; choose from l1, mse, frequency, texture, lpips, ea_lpips",
        ),
        ("stages.3.losses={teacher: 0}", "no loss above 0"),
        ("stages.2.crop=64", "multiple of 128"),
    ],
)
def test_mistakes(recipe, change, said, capsys, tmp_path):
    assert call(recipe, change, "--workdir", tmp_path / "w") == 2
    assert said in capsys.readouterr().err
