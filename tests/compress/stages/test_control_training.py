"""Training of control networks, preprocessors and decoders: CCSR, DoSSR."""

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

from compress.recipe.checkpoint import load_model

CCSR = stage_of("ccsr", {"noise": 1.0, "first": 1.0, "jump": 1.0}, steps=4)
DECODER = stage_of("decoder", {"mse": 1.0, "gan": 0.5}, steps=4, gan_after=1, gan_balance=True)
DOSSR = stage_of("dossr", {"shift": 1.0}, steps=4)
PREPROCESSOR = stage_of("preprocessor", {"l1": 1.0})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture
def ccsr(folder, monkeypatch):
    smallest(monkeypatch)
    return recipe_of(folder, {"family": "ccsr"}, [CCSR])


@pytest.fixture
def dossr(folder, monkeypatch):
    smallest(monkeypatch)
    return recipe_of(folder, {"family": "dossr", "steps": 1}, [DOSSR])


def learning(trainer):
    """The components of which something learns."""
    named = trainer.model.named_parameters()
    return {name.partition(".")[0] for name, p in named if p.requires_grad}


def test_ccsr_and_its_decoder_resume(ccsr, tmp_path, monkeypatch):
    recipe = write(ccsr | {"stages": [CCSR, DECODER]}, tmp_path / "r.yaml")
    work = check_resume(recipe, tmp_path, "1_decoder", monkeypatch)
    names = changed(work / "0_ccsr.safetensors", work / "1_decoder.safetensors")
    assert names
    assert all(name.startswith("decoder.decoder.") for name in names)
    assert load_model(tmp_path / "a.safetensors")(torch.rand(1, 3, 32, 32)).isfinite().all()


def test_dossr_resumes(dossr, tmp_path, monkeypatch):
    recipe = write(dossr | {"stages": [PREPROCESSOR, DOSSR]}, tmp_path / "r.yaml")
    work = check_resume(recipe, tmp_path, "1_dossr", monkeypatch)
    names = changed(work / "0_preprocessor.safetensors", work / "1_dossr.safetensors")
    assert names
    assert {name.partition(".")[0] for name in names} <= {"hint", "control"}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, {"hint", "control"}),
        ({"start_from": "lr", "losses": {"first": 1.0}}, {"hint", "control"}),
        ({"denoiser": "joint"}, {"hint", "control", "denoiser"}),
        ({"denoiser": "joint", "lora": {"rank": 2}}, {"hint", "control", "denoiser"}),
    ],
)
def test_ccsrs_loss_falls_and_what_is_held_still_does_not_learn(ccsr, tmp_path, changes, parts):
    trainer = check_learning(ccsr | {"stages": [CCSR | changes]}, tmp_path / "w")
    assert learning(trainer) == parts


def test_version_1_has_a_loss_more_and_learns(ccsr, tmp_path):
    losses = {"first": 1.0, "jump": 1.0, "jump_noise": 1.0}
    source = ccsr["source"] | {"version": 1, "steps": 6}
    recipe = ccsr | {"source": source, "stages": [stage_of("ccsr", losses)]}
    trainer = check_learning(recipe, tmp_path / "w")
    assert learning(trainer) == {"hint", "control"}


def test_gradients_go_around_the_unets_encoder_in_version_1_alone(ccsr, tmp_path):
    for version, stops in ((1, True), (2, False)):
        source = ccsr["source"] | {"version": version, "steps": 6 if version == 1 else 1}
        _, stage, _ = prepared(ccsr | {"source": source}, tmp_path / f"w{version}")
        assert stage.gradient_stops is stops


def test_dossrs_loss_falls_and_only_its_control_network_learns(dossr, tmp_path):
    assert learning(check_learning(dossr, tmp_path / "w")) == {"hint", "control"}


def test_dossr_draws_all_timesteps_or_those_of_the_chain(dossr, tmp_path):
    for which, count in (("all", 1000), ("chain", 1)):
        recipe = dossr | {"stages": [DOSSR | {"timesteps": which}]}
        _, stage, batch = prepared(recipe, tmp_path / which)
        assert len(stage.timesteps) == count
        assert stage(batch, 0)[1]["shift"].isfinite()
    assert stage.timesteps == [499]


def test_the_preprocessor_learns_alone(dossr, tmp_path):
    trainer = check_learning(dossr | {"stages": [PREPROCESSOR]}, tmp_path / "w")
    assert learning(trainer) == {"preprocessor"}


def test_the_decoder_learns_alone_and_has_a_last_layer(ccsr, tmp_path):
    recipe = ccsr | {"stages": [stage_of("decoder", {"l1": 1.0})]}
    trainer = check_learning(recipe, tmp_path / "w")
    assert learning(trainer) == {"decoder"}
    _, stage, _ = prepared(recipe, tmp_path / "v")
    assert stage.last_layer().shape[0] == 3


@pytest.mark.parametrize("family", ["ccsr", "dossr"])
@pytest.mark.parametrize("control", [None, [16, 16, 16, 16]])
def test_a_control_network_begins_by_adding_nothing(ccsr, dossr, family, control, tmp_path):
    raw = {"ccsr": ccsr, "dossr": dossr}[family]
    # A control network as wide as the UNet has four times as many time channels.
    widths = {"unet_channels": [32, 16, 16, 16], "time_channels": 128}
    start = osediff_start(tmp_path, **widths)
    source = raw["source"] | widths | {"control_channels": control, "latent_scale": 256.0}
    recipe = raw | {"start": str(start), "source": source}
    model, image = network_of(recipe, tmp_path / "w")
    state = torch.rand(1, 4, 16, 16)
    hint = model.hint(state)
    assert all(residual.abs().max() == 0 for residual in model.control(state, hint))
    shapes = [tuple(residual.shape[1:2]) for residual in model.control(state, hint)]
    assert shapes[0] == (32,)
    if control is None:
        skips = model.control.down_blocks.state_dict()
        twin = model.denoiser.unet.down_blocks.state_dict()
        assert all(torch.equal(skips[name], twin[name]) for name in twin)
    if family == "ccsr":  # DoSSR's preprocessor is random yet
        lr = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        expected = load_model(start).network(lr)
        # The noise of the schedule is small beside a latent of that scale.
        assert (image - expected).square().mean() < 1e-2 * expected.var()
    assert image.isfinite().all()


def test_end_to_end_trains_all_networks(dossr, tmp_path):
    stage = stage_of("end_to_end", {"l1": 1.0}, encoder="frozen")
    trainer = check_learning(dossr | {"stages": [stage]}, tmp_path / "w", steps=4)
    assert learning(trainer) == {"preprocessor", "hint", "control", "denoiser", "decoder"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("stages.0.losses={l1: 1.0}", "stage 'ccsr' has no loss 'l1'; choose from noise, first"),
        ("stages.0.start_from=x", "Input should be 'hr' or 'lr'"),
        ("stages.0.denoiser=x", "Input should be 'joint' or 'frozen'"),
        ("stages.0.gan_after=5", "gan_after is of the loss gan, which stage 'ccsr' lacks"),
        ("source.control_channels=[16,16,16,10]", "choose multiples of 16"),
        ("source.latent_scale=0", "greater than 0"),
    ],
)
def test_mistakes(ccsr, tmp_path, capsys, change, said):
    recipe = write(ccsr, tmp_path / "r.yaml")
    assert call(recipe, change, "--workdir", tmp_path / "w") == 2
    assert said in capsys.readouterr().err


def test_a_start_of_another_scale_is_refused(ccsr, tmp_path, capsys):
    recipe = write(ccsr | {"stages": [CCSR | {"steps": 1}]}, tmp_path / "r.yaml")
    assert call(recipe, "source.latent_scale=8", "--workdir", tmp_path / "a") == 0
    start = f"start={tmp_path / 'a' / '0_ccsr.safetensors'}"
    assert call(recipe, start, "--workdir", tmp_path / "b") == 2
    assert "set source.latent_scale=8" in capsys.readouterr().err


def test_a_balance_needs_other_losses(ccsr, tmp_path, capsys):
    recipe = write(ccsr | {"stages": [DECODER | {"losses": {"gan": 1.0}}]}, tmp_path / "r.yaml")
    assert call(recipe, "--workdir", tmp_path / "w") == 2
    assert "gan_balance compares the loss gan with others; name one" in capsys.readouterr().err
