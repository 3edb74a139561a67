"""TSD-SR's training: a flow-matching teacher beside the model, then a student by its scores."""

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
    smallest,
    stage_of,
    write,
)
from torch import nn

from compress.core.config import validate
from compress.core.errors import UserError
from compress.families.tsdsr import TSDSRSource
from compress.process.resample import upsample
from compress.recipe.checkpoint import load_model
from compress.stages import tsdsr
from compress.stages.recipe import TrainRecipe
from compress.stages.trainer import Trainer
from compress.stages.tsdsr import TEACHER, Flow, FlowTeacher

SOURCE = {
    "family": "tsdsr",
    "size": "nano",
    "latent_channels": 4,
    "vae_channels": [8] * 4,
    "encoder_channels": [8] * 4,
    "heads": 2,
    "blocks": 2,
}
LOSSES = {"tsd": 0.1, "score": 1.0, "latent": 1.0, "l1": 1.0}
FLOW = stage_of(TEACHER, {"velocity": 1.0}, batch=4)
STAGE = stage_of("tsdsr", LOSSES, steps=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture
def raw(folder, monkeypatch):
    smallest(monkeypatch)
    return {
        "name": "tiny",
        "source": SOURCE,
        "data": {"folders": [str(folder)]},
        "stages": [FLOW, STAGE],
    }


def test_all_of_it_and_resume(raw, tmp_path, monkeypatch):
    recipe = write(raw, tmp_path / "r.yaml")
    work = check_resume(recipe, tmp_path, "1_tsdsr", monkeypatch)
    log = json.loads((tmp_path / "a.json").read_text())["stages"][1]["log"][-1]
    assert set(log) == {"step", "seconds", "loss", *LOSSES}
    assert (work / f"{TEACHER}.safetensors").is_file()
    names = changed(work / f"0_{TEACHER}.safetensors", work / "1_tsdsr.safetensors")
    assert {name.partition(".")[0] for name in names} == {"denoiser", "encoder"}
    assert load_model(tmp_path / "a.safetensors")(torch.rand(1, 3, 32, 32)).isfinite().all()


def test_the_teacher_learns_alone(raw, tmp_path):
    trainer = check_learning(raw, tmp_path / "w")
    assert not [p for p in trainer.model.parameters() if p.requires_grad]


def test_the_teacher_sees_latents_of_unit_deviation(raw, tmp_path):
    trainer, _, _ = prepared(raw, tmp_path / "w")
    run = trainer._stage_run(0, trainer.recipe.stages[0])
    latents = trainer.model.encoder.clean(run.clean_images())
    assert latents.std().item() == pytest.approx(1, abs=1e-3)


def teacher_in(raw: dict, work) -> None:
    """The file of a teacher with random values."""
    trainer, stage, _ = prepared(raw, work)
    for parameter in stage.beside.transformer.proj_out.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    trainer.companions.write(TEACHER, stage.beside)


@pytest.mark.parametrize("dasm", [True, False])
def test_gradients_reach_the_student_through_the_scores_alone(raw, tmp_path, dasm):
    """The authors' program computes that loss without gradient."""
    teacher_in(raw, tmp_path / "w")
    stages = [FLOW, STAGE | {"losses": {"tsd": 1.0}, "dasm": dasm}]
    trainer, stage, batch = prepared(raw | {"stages": stages}, tmp_path / "w", 1)
    # Its last layer is 0 as a training begins: gradients would end there.
    last = trainer.model.denoiser.transformer.proj_out
    torch.nn.init.normal_(last.weight, std=0.1)
    seen = []
    stage.flow.module.register_forward_hook(lambda *_: seen.append(1))
    _, terms = stage(batch, 0)
    terms["tsd"].backward()
    assert len(seen) == (8 if dasm else 2)
    reached = {
        n.partition(".")[0] for n, p in trainer.model.named_parameters() if p.grad is not None
    }
    assert reached == {"denoiser", "encoder"}
    assert all(p.grad is None for p in stage.score.parameters())


def test_the_score_network_learns_from_latents_that_stay(raw, tmp_path):
    teacher_in(raw, tmp_path / "w")
    stages = [FLOW, STAGE | {"losses": {"score": 1.0}}]
    trainer, stage, batch = prepared(raw | {"stages": stages}, tmp_path / "w", 1)
    _, terms = stage(batch, 0)
    terms["score"].backward()
    assert all(p.grad is None for p in trainer.model.parameters())
    assert any(p.grad is not None for p in stage.score.parameters())


def test_the_loss_on_photographs_falls(raw, tmp_path):
    stages = [STAGE | {"losses": {"latent": 1.0, "l1": 1.0}}]
    trainer = check_learning(raw | {"stages": stages}, tmp_path / "w")
    learns = {n.partition(".")[0] for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert learns == {"denoiser", "encoder"}


def test_without_the_teachers_stage(raw, tmp_path):
    with pytest.raises(UserError, match="list flow_teacher before the stages that need it"):
        prepared(raw | {"stages": [STAGE]}, tmp_path / "w")


@torch.no_grad()
def test_a_nano_begins_as_its_autoencoder(raw, tmp_path):
    model, image = network_of(raw, tmp_path / "w")
    lr = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(image, model.decoder(model.encoder(lr)))


def test_a_flow_is_a_copy(raw, tmp_path):
    trainer, _, _ = prepared(raw, tmp_path / "w")
    model = trainer.model
    flow = Flow(model.denoiser, model.text_encoder)
    own = {id(p) for p in model.parameters()}
    assert not own & {id(p) for p in flow.parameters()}
    assert tsdsr.POINTS == 4


@pytest.fixture
def osediff(tmp_path):
    """A weight file of a tiny nano of one step with the same autoencoder."""
    widths = {"latent_channels": 4, "vae_channels": [8] * 4, "encoder_channels": [8] * 4}
    return osediff_start(tmp_path, **widths)


@torch.no_grad()
def test_it_begins_with_the_autoencoder_of_another_nano(raw, osediff, tmp_path):
    """It restores nothing yet: its image is what that decoder makes of the encoder's latent."""
    other = load_model(osediff)
    _, image = network_of(raw | {"start": str(osediff)}, tmp_path / "w")
    lr = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    unscaled = other.encoder.clean(upsample(lr).clamp(0, 1))
    assert torch.allclose(image, other.decoder(unscaled), atol=1e-5)


def test_a_full_size_takes_no_nano_over(osediff):
    source = TSDSRSource(size="full")
    with pytest.raises(UserError, match="begins with published files"):
        source.take_over(source.build(), load_model(osediff), "start: x")


def test_other_widths_are_told(raw, osediff, tmp_path):
    wider = raw | {"start": str(osediff), "source": SOURCE | {"encoder_channels": [16] * 4}}
    with pytest.raises(UserError, match=r"its encoder has other widths; set source\.encoder"):
        prepared(wider, tmp_path / "w")


def test_latents_of_an_encoder_beside_the_model(raw, folder, osediff, tmp_path):
    """The teacher and the student's goal are of them, and the model's own latents stay."""
    clean = {"clean": "hr_encoder"}
    encoder = stage_of("hr_encoder", {"l1": 1.0, "latent": 0.1})
    stages = [encoder, FLOW | clean, STAGE | clean]
    recipe = write(raw | {"start": str(osediff), "stages": stages}, tmp_path / "r.yaml")
    work = tmp_path / "w"
    assert call(recipe, "--workdir", work) == 0
    names = changed(work / "0_hr_encoder.safetensors", work / f"1_{TEACHER}.safetensors")
    assert not names


def test_a_published_autoencoder_is_not_rescaled(raw, tmp_path):
    """Its factor gives latents about unit deviation; no convolution stands beside the latent."""
    trainer = Trainer(validate(TrainRecipe, raw, "recipe"), tmp_path / "w")
    trainer.model.encoder.quant_conv = nn.Identity()
    trainer.model.decoder.post_quant_conv = nn.Identity()
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    stage, batches = FlowTeacher.prepare(trainer._stage_run(0, trainer.recipe.stages[0]))
    _, terms = stage(next(iter(batches)), 0)
    assert terms["velocity"].isfinite()
    after = trainer.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
