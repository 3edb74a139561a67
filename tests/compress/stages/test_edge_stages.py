"""Training Edge-SD-SR: every stage for a few steps, resume, what learns, what no model holds."""

import json
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
from compress.data.seeded import seeded_pair
from compress.families import edge_sd_sr
from compress.families.edge_sd_sr import EdgeSDSRSource, Shape
from compress.recipe.checkpoint import load_model, read_header
from compress.stages import base, companions, edge_images, edge_latents
from compress.stages.edge import nll
from compress.stages.images import Setting
from compress.training import session
from compress.training.initialise import initialise

COMMON = {"batch": 1, "crop": 64, "lr": 1e-3}
STAGES = [
    {"stage": "edge_autoencoder", "steps": 2, "losses": {"l1": 1.0, "kl": 1e-5}, **COMMON},
    {"stage": "edge_encoder", "steps": 2, "losses": {"nll": 1.0, "latent": 0.1}, **COMMON},
    {"stage": "edge_teacher", "steps": 2, "losses": {"latent": 1.0, "nll": 0.05}, **COMMON},
    {
        "stage": "edge_joint",
        "steps": 4,
        "losses": {"latent": 0.5, "distill": 0.5, "nll": 0.05},
        **COMMON,
    },
    {
        "stage": "edge_one_step",
        "steps": 2,
        "losses": {"latent": 0.1, "l1": 1.0, "gan": 0.01},
        **COMMON,
    },
    {"stage": "edge_decoder", "steps": 2, "losses": {"l1": 1.0}, **COMMON},
]
ON_IMAGES = {
    "edge_joint": edge_images.EdgeJointImages,
    "edge_one_step": edge_images.EdgeOneStep,
    "edge_decoder": edge_images.EdgeDecoder,
}
TINY = Shape(
    unet=(16, 16),
    unet_blocks=1,
    attention=(1,),
    groups=4,
    head=8,
    shuffle=True,
    decoder=(16, 8, 8),
    decoder_blocks=(1, 1, 1),
    encoder=(8, 16),
    encoder_blocks=(1, 1),
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(edge_sd_sr.SHAPES, "nano", TINY)
    monkeypatch.setattr(base, "LATENT_POOL", 2)


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(data.astronaut()).save(tmp_path / "images" / "astronaut.png")

    def write(stages, **source):
        path = tmp_path / "train.yaml"
        path.write_text(
            yaml.safe_dump(
                {
                    "name": "tiny",
                    "source": {"family": "edge_sd_sr", **source},
                    "data": {"folders": [str(tmp_path / "images")]},
                    "stages": stages,
                }
            )
        )
        return path

    return write


def call(*arguments):
    with pytest.raises(SystemExit) as exit:
        train.main([str(a) for a in arguments])
    return exit.value.code


def test_all_stages_and_resume(recipe, tmp_path, monkeypatch):
    path = recipe(STAGES)
    assert call(path, "--workdir", tmp_path / "a", "-o", tmp_path / "a.safetensors") == 0
    record = json.loads((tmp_path / "a.json").read_text())
    logs = [stage["log"][-1] for stage in record["stages"]]
    assert [set(log) - {"step", "seconds", "loss"} for log in logs] == [
        {"l1", "kl"},
        {"nll", "latent"},
        {"latent", "nll"},
        {"latent", "distill", "nll"},
        {"latent", "l1", "gan", "critic"},
        {"l1"},
    ]
    source, passes = read_header(tmp_path / "a.safetensors")
    assert source == EdgeSDSRSource()
    assert passes == []
    image = torch.rand(1, 3, 32, 32)
    assert load_model(tmp_path / "a.safetensors")(image).shape == (1, 3, 128, 128)
    # E_H and the teacher are files of the training, and no part of what ships.
    assert set(load_file(tmp_path / "a.safetensors")) == set(EdgeSDSRSource().build().state_dict())
    assert {p.stem for p in (tmp_path / "a").glob("*.safetensors")} - {
        f"{i}_{s['stage']}" for i, s in enumerate(STAGES)
    } == {"hr_encoder", "x2_teacher"}

    # Killed in the fourth stage after a checkpoint, then started again.
    shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("[345]_*"))
    with monkeypatch.context() as patch:
        patch.setattr(session, "train", killed("3_edge_joint", 3, checkpoint_every=2))
        assert call(path, "--workdir", tmp_path / "b", "-o", tmp_path / "b.safetensors") == 130
    assert not (tmp_path / "b.safetensors").exists()
    assert (tmp_path / "b" / "3_edge_joint.checkpoint").is_dir()
    assert call(path, "--workdir", tmp_path / "b", "-o", tmp_path / "b.safetensors") == 0
    whole, resumed = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=2e-3, msg=name)


def setting(model):
    return Setting(model, {"l1": 1.0}, {}, PRESETS["mild"], (0,))


def started(tmp_path):
    source = EdgeSDSRSource()
    model = initialise(source.build(), 0)
    source.start(model)
    model.eval()
    return model, companions.Companions(model, tmp_path)


def test_latents_get_unit_deviation_and_the_autoencoder_stays(tmp_path):
    model, beside = started(tmp_path)
    crops = torch.rand(2, 3, 64, 64)
    stage = edge_images.EdgeAutoencoder(setting(model), beside, crops)
    with torch.no_grad():
        before = model.decoder(stage.beside(crops)[0])
        stage.finish()
        encoder = beside.hr_encoder()
        assert stage.deviation != pytest.approx(1, abs=0.1)
        assert encoder(crops)[0].std().item() == pytest.approx(1, abs=1e-4)
        torch.testing.assert_close(model.decoder(encoder(crops)[0]), before, rtol=1e-4, atol=1e-5)


def pooled(model, beside):
    torch.manual_seed(0)
    beside.write("hr_encoder", companions.HREncoder(4))
    return beside.pool([torch.rand(2, 3, 128, 128)], 128, PRESETS["mild"], (0,))


def test_pool_holds_what_it_says(tmp_path):
    model, beside = started(tmp_path)
    pool = pooled(model, beside)
    assert pool.shape == (2, 4 + 12 + 48, 16, 16)
    torch.manual_seed(0)
    companions.HREncoder(4)
    hr = torch.rand(2, 3, 128, 128)
    stage = edge_latents.EdgeJoint(model, {})
    clean, x4, x2, taught = stage.unpack(pool)
    assert torch.equal(clean, beside.hr_encoder()(hr)[0].detach())
    assert taught.shape[1] == 0
    assert torch.equal(x4, seeded_pair(hr, PRESETS["mild"], 0, 0))
    assert x4.shape[-1] == 32
    assert torch.equal(x2, companions.half_scale(hr, PRESETS["mild"], 0, 0))
    assert x2.shape[-1] == 64
    assert beside.pool([], 128, PRESETS["mild"], (0,)) is pool
    beside.write("x2_teacher", companions.X2Teacher(model))
    taught = stage.unpack(beside.taught(pool))[-1]
    teacher = beside.teacher()
    expected = model.process.restore(teacher.encoder(x2), teacher.denoiser)
    torch.testing.assert_close(taught, expected.detach())


def test_nll_by_hand(tmp_path):
    model, _ = started(tmp_path)
    latent = torch.cat(
        [torch.zeros(1, 4, 2, 2), torch.full((1, 4, 2, 2), -2.0)], dim=1
    )  # sigma = 1/e
    found = nll(latent, torch.ones(1, 4, 2, 2), model.process)
    assert found.item() == pytest.approx(-1 + 0.5 * 2.718281828**2, rel=1e-5)


@pytest.mark.parametrize(
    ("stage", "encoder", "learns"),
    [
        ("edge_joint", "joint", {"denoiser", "encoder"}),
        ("edge_joint", "frozen", {"denoiser"}),
        ("edge_one_step", "joint", {"denoiser", "encoder"}),
        ("edge_one_step", "frozen", {"denoiser"}),
        ("edge_decoder", "joint", {"decoder"}),
    ],
)
def test_who_learns(tmp_path, stage, encoder, learns):
    model, beside = started(tmp_path)
    pooled(model, beside)
    made = ON_IMAGES[stage](setting(model), beside)
    parts = [part for part in made.trained if not (part == "encoder" and encoder == "frozen")]
    assert set(parts) == learns
    torch.nn.init.normal_(model.denoiser.unet.conv_out.weight, std=0.1)
    model.requires_grad_(False)
    for part in parts:
        model.get_submodule(part).requires_grad_(True)
    _, terms = made(torch.rand(1, 3, 128, 128), 0)
    terms["l1"].backward()
    reached = {
        name
        for name, part in model.components()
        if any(p.grad is not None and p.grad.any() for p in part.parameters())
    }
    assert reached == learns


def test_one_step_and_decoder_see_the_model_as_it_runs(tmp_path):
    model, beside = started(tmp_path)
    hr = torch.rand(1, 3, 128, 128)
    made = edge_images.EdgeDecoder(setting(model), beside)
    with torch.no_grad():
        image, terms = made(hr, 3)
        expected = model.network(seeded_pair(hr, PRESETS["mild"], 0, 3))
    torch.testing.assert_close(image, expected)
    assert terms["l1"].item() == pytest.approx((image - hr).abs().mean().item(), rel=1e-5)


def test_ablation_runs_from_the_command_line(recipe, tmp_path):
    stages = [
        STAGES[0],
        STAGES[1],
        {
            "stage": "edge_joint",
            "steps": 2,
            "losses": {"latent": 1.0},
            "encoder": "frozen",
            **COMMON,
        },
    ]
    path = recipe(stages)
    assert (
        call(
            path,
            "source.mean=false",
            "source.variance=false",
            "--workdir",
            tmp_path / "a",
            "-o",
            tmp_path / "a.safetensors",
        )
        == 0
    )
    source, _ = read_header(tmp_path / "a.safetensors")
    assert (source.mean, source.variance) == (False, False)
    before, after = (
        load_file(tmp_path / "a" / f"{name}.safetensors")
        for name in ("1_edge_encoder", "2_edge_joint")
    )
    changed = {
        name.partition(".")[0] for name in after if not torch.equal(before[name], after[name])
    }
    assert changed == {"denoiser"}


def test_what_it_refuses(recipe, tmp_path, capsys):
    for stages, words in (
        ([STAGES[1]], "hr_encoder.safetensors does not exist; list edge_autoencoder before"),
        ([STAGES[0], STAGES[3]], "x2_teacher.safetensors does not exist; list edge_teacher before"),
        ([STAGES[5] | {"encoder": "frozen"}], "stage 'edge_decoder' cannot hold the encoder still"),
        (
            [STAGES[3] | {"losses": {"distill": 1.0, "l1": 1.0}}],
            "distill on precomputed latents only",
        ),
        ([STAGES[1] | {"losses": {"l1": 1.0}}], "has no loss 'l1'; choose from latent, nll"),
        (
            [STAGES[0] | {"stage": "autoencoder"}],
            "'autoencoder' does not fit the family 'edge_sd_sr'",
        ),
    ):
        assert (
            call(recipe(stages), "--workdir", tmp_path / "c", "-o", tmp_path / "c.safetensors") == 2
        )
        assert words in capsys.readouterr().err
    _, beside = started(tmp_path)
    with pytest.raises(UserError, match="edge_autoencoder"):
        beside.hr_encoder()
