"""AddSR's training: student, teacher, weights by timestep, a discriminator on frozen features."""

import json

import pytest
import torch
from support.tiny_training import (
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

from compress.recipe.checkpoint import load_model
from compress.training.timestep_adaptive import adaptive, lower

LOSSES = {"ta_add": 1.0, "l1": 1.0, "gan": 0.02}
STAGE = stage_of("addsr", LOSSES, steps=4, gan_after=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture
def raw(folder, monkeypatch):
    smallest(monkeypatch)
    return recipe_of(folder, {"family": "addsr", "steps": 2, "image_heads": 1}, [STAGE])


def learning(trainer):
    """Names of the parameters that learn."""
    return {name for name, p in trainer.model.named_parameters() if p.requires_grad}


def test_all_of_it_and_resume(raw, tmp_path, monkeypatch):
    first = stage_of("hr_encoder", {"l1": 1.0}, steps=1)
    recipe = write(raw | {"stages": [first, STAGE]}, tmp_path / "r.yaml")
    work = check_resume(recipe, tmp_path, "1_addsr", monkeypatch)
    log = json.loads((tmp_path / "a.json").read_text())["stages"][1]["log"][-1]
    assert set(log) == {"step", "seconds", "loss", *LOSSES, "critic"}
    names = changed(work / "0_hr_encoder.safetensors", work / "1_addsr.safetensors")
    assert names
    assert all(name.startswith("hint.") or ".image." in name for name in names)
    assert load_model(tmp_path / "a.safetensors")(torch.rand(1, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize("lr", [False, True])
def test_the_loss_falls_and_what_is_published_learns(raw, tmp_path, lr):
    stage = stage_of("addsr", {"ta_add": 1.0, "l1": 1.0}, start_from="lr" if lr else "hr")
    trainer = check_learning(raw | {"stages": [stage]}, tmp_path / "w")
    names = learning(trainer)
    assert any(".image." in name for name in names)
    assert all(name.startswith("hint.") or ".image." in name for name in names)


def test_a_unet_that_learns_as_well(raw, tmp_path):
    stage = stage_of("addsr", {"ta_add_by_step": 1.0, "l1": 1.0}, denoiser="joint")
    names = learning(check_learning(raw | {"stages": [stage]}, tmp_path / "w"))
    assert {name.partition(".")[0] for name in names} == {"hint", "control", "denoiser", "tokens"}


def test_one_pass_or_two_and_their_weights(raw, tmp_path):
    _, stage, hr = prepared(raw, tmp_path / "w")
    enlarged, clean = torch.rand_like(hr), stage.clean_latents(hr)
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        made = stage.student(enlarged, clean)
        alone = bool((made.first == 1000).all())
        seen.add(alone)
        if alone:
            assert made.last.tolist() == [999, 999]
        else:
            assert set(made.first.tolist()) <= {999, 749, 499}
            assert torch.equal(lower(made.first), made.last)
    assert seen == {True, False}
    weights = adaptive(torch.tensor([999, 749, 499, 249, 1000]))
    assert weights.tolist() == pytest.approx([0.5, 1.05, 2.205, 4.6305, 4.6305])


def test_the_discriminator_judges_frozen_features(raw, tmp_path):
    trainer, stage, batch = prepared(raw, tmp_path / "w")
    judge, learns = stage.critic()
    named = dict(judge.named_parameters())
    assert {id(p) for p in learns} == {id(p) for n, p in named.items() if n.startswith("judge.")}
    judged, _ = stage(batch, 0)
    assert set(judged.told) == {"condition"}
    logits = judge(judged.fake, **judged.told)
    assert len(logits) == 3
    torch.stack([map_.mean() for map_ in logits]).sum().backward()
    assert all(p.grad is None for n, p in named.items() if not n.startswith("judge."))
    assert any(p.grad is not None for p in trainer.model.parameters())


def test_the_teacher_is_no_part_of_the_student(raw, tmp_path):
    trainer, stage, _ = prepared(raw, tmp_path / "w")
    teacher = stage.taught_by.module
    assert not any(p.requires_grad for p in teacher.parameters())
    own = {id(p) for p in trainer.model.parameters()} | {id(p) for p in stage.parameters()}
    assert not any(id(p) in own for p in teacher.parameters())


@torch.no_grad()
@pytest.mark.parametrize("heads", [None, 1])
def test_a_training_begins_by_adding_nothing(raw, tmp_path, heads):
    widths = {"unet_channels": [32, 16, 16, 32], "control_channels": [16] * 4}
    start = osediff_start(tmp_path, unet_channels=widths["unet_channels"])
    changes = widths | {"image_heads": heads, "latent_scale": 256.0, "steps": 1}
    source = raw["source"] | changes
    _, image = network_of(raw | {"start": str(start), "source": source}, tmp_path / "w")
    lr = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = load_model(start).network(lr)
    # The noise of the schedule is small beside a latent of that scale.
    assert (image - expected).square().mean() < 1e-2 * expected.var()
