"""The distill pass: it learns, resumes exactly, and every loss trains what it should."""

import copy
import json

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from support.killed import killed
from support.tiny_model import tiny
from torch import nn

from compress.core.errors import UserError
from compress.model.passes import FitContext, Watch
from compress.passes import PASSES
from compress.recipe.checkpoint import parse_pass
from compress.training import loop, session
from compress.training.acceleration import accelerator as new_accelerator
from compress.training.adversarial import FORMS, Judged, adversarial
from compress.training.ema import EMA


def distill(**options):
    return parse_pass(
        {"pass": "distill", "batch": 2, "crop": 64, "steps": 2, "precision": "fp32", **options},
        "test",
    )


@pytest.fixture
def source():
    return tiny()


@pytest.fixture
def student(source):
    """The tiny model with half a decoder; `before` gives it from before `decoder_join`."""
    model = copy.deepcopy(source)
    PASSES["decoder_halve"](channels="dependency").convert(model)
    return model


def context(source, before, folder):
    return FitContext(source=source, before=lambda name: copy.deepcopy(before), workdir=folder)


def values(model: nn.Module, prefix: str) -> dict:
    return {k: v.clone() for k, v in model.state_dict().items() if k.startswith(prefix)}


def changed(before: dict, model: nn.Module) -> set[str]:
    state = model.state_dict()
    return {k for k, v in before.items() if not torch.equal(v, state[k])}


@pytest.mark.slow
def test_the_decoder_learns_and_only_it(source, student, tmp_path):
    before = values(student, "")
    config = distill(stage="decoder", losses={"l1": 1.0}, steps=30, lr=4e-3, samples_every=10)
    first = distill(stage="decoder", losses={"l1": 1.0}, steps=1)
    start = first.fit(copy.deepcopy(student), context(source, student, tmp_path / "first"))["log"][
        -1
    ]["l1"]
    figures = config.fit(student, context(source, student, tmp_path))
    assert {name.partition(".")[0] for name in changed(before, student)} == {"decoder"}
    assert figures["steps"] == 30
    assert figures["images"] == 5
    assert figures["critic_parameters"] == 0
    assert figures["trained_parameters"] == sum(p.numel() for p in student.decoder.parameters())
    assert figures["log"][-1]["l1"] < 0.9 * start  # a running mean, which lags
    assert [p.name for p in sorted((tmp_path / "samples").iterdir())] == [
        "000010.png",
        "000020.png",
        "000030.png",
    ]
    assert not any(p.requires_grad for p in student.parameters())


@pytest.mark.slow
def test_resume_gives_what_an_unbroken_run_gives(source, student, tmp_path, monkeypatch):
    config = distill(
        stage="student",
        losses={"l1": 1.0, "latent": 0.1, "gan": 0.01},
        steps=4,
        checkpoint_every=2,
        train=("denoiser.*",),
        discriminator={"kind": "patch", "lr": 1e-4},
    )
    whole = copy.deepcopy(student)
    config.fit(whole, context(source, student, tmp_path / "a"))

    broken = copy.deepcopy(student)
    with monkeypatch.context() as patch:
        patch.setattr(session, "train", killed("distill student", 3))
        with pytest.raises(KeyboardInterrupt):
            config.fit(broken, context(source, student, tmp_path / "b"))
    again = copy.deepcopy(student)
    config.fit(again, context(source, student, tmp_path / "b"))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    assert changed(values(student, "denoiser."), whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {
            "losses": {"feature": 1.0, "gan": 0.1},
            "discriminator": {"kind": "unet_lora", "lr": 1e-4},
        },
        {
            "losses": {"latent": 1.0, "gan": 0.1},
            "discriminator": {"kind": "noise_aware", "lr": 1e-4},
        },
        {
            "losses": {"mse": 1.0, "gan": 0.1},
            "discriminator": {"kind": "patch", "lr": 1e-4},
            "target": "hr",
        },
        {"losses": {"vsd": 1.0}, "prior": {"base": "source", "lr": 1e-4}},
        {"losses": {"tsm": 1.0}, "prior": {"base": "source"}},
    ],
    ids=["features", "latents", "images", "vsd", "tsm"],
)
def test_every_critic(source, student, tmp_path, options):
    before = values(student, "denoiser.")
    config = distill(stage="student", train=("denoiser.*",), **options)
    figures = config.fit(student, context(source, student, tmp_path))
    assert changed(before, student)
    assert all(torch.isfinite(v).all() for v in student.state_dict().values())
    row = figures["log"][-1]
    assert set(options["losses"]) <= row.keys()
    assert all(v == v for v in row.values())
    assert (
        (figures["critic_parameters"] > 0) == ("tsm" not in options["losses"]) == ("critic" in row)
    )


@pytest.mark.slow
def test_after_joining_features_come_from_before(source, student, tmp_path):
    before = copy.deepcopy(student)
    for name in ("encoder_swap", "decoder_join"):
        PASSES[name]().convert(student)
    asked = []

    def model_before(name):
        asked.append(name)
        return copy.deepcopy(before)

    def feature_after(steps: int) -> float:
        config = distill(stage="student", losses={"feature": 1.0}, steps=steps, lr=1e-2)
        place = FitContext(source=source, before=model_before, workdir=tmp_path / str(steps))
        return config.fit(copy.deepcopy(student), place)["log"][-1]["feature"]

    assert feature_after(25) < 0.8 * feature_after(1)
    assert asked == ["decoder_join"] * 2
    config = distill(stage="student", losses={"feature": 1.0})
    assert all(
        n.startswith(("denoiser.", "decoder.decoder.mid_block."))
        for n in config.trained_names(student)
    )


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_gradients_of_a_gan_go_where_they_belong(form):
    judge, fake = nn.Linear(3, 1), torch.randn(4, 3, requires_grad=True)
    seen = Judged(torch.randn(4, 3), fake)
    generator, critic = adversarial(judge, list(judge.parameters()), seen, form)
    generator.backward()
    assert fake.grad.abs().sum() > 0
    assert judge.weight.grad is None
    fake.grad = None
    critic.backward()
    assert fake.grad is None
    assert judge.weight.grad.abs().sum() > 0


def test_accumulated_batches_equal_one_large(tmp_path):
    data = torch.randn(6, 4, 5)
    results = []
    for accumulate, batches in ((1, data), (2, data.view(12, 2, 5))):
        torch.manual_seed(0)
        layer, accelerator = nn.Linear(5, 1), new_accelerator("fp32", torch.device("cpu"))
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        layer, optimizer = accelerator.prepare(layer, optimizer)
        loop.train(
            loop.Plan("toy", tmp_path / str(accumulate), 6, accumulate, warmup=1),
            loop.Parts(accelerator, [layer], [optimizer], EMA(layer.parameters(), 0.0)),
            batches,
            lambda i, x, layer=layer: {"loss": layer(x).square().mean()},
        )
        results.append(layer.weight.detach().clone())
    torch.testing.assert_close(*results)
    assert isinstance(accelerator, Accelerator)
    assert results[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stage": "student", "losses": {"lpips": 1.0}}, "lpips needs lpips_weights"),
        ({"stage": "student", "losses": {"vsd": 1.0}}, "vsd needs prior"),
        (
            {"stage": "decoder", "losses": {"feature": 1.0}},
            "feature cannot be a loss of stage decoder",
        ),
        ({"stage": "student", "losses": {"l2": 1.0}}, "l2"),
        ({"stage": "student", "losses": {}}, "losses"),
        ({"stage": "student", "losses": {"l1": 1.0}, "data": {"folders": []}}, "data.folders"),
    ],
)
def test_mistakes_in_the_config(options, said):
    with pytest.raises((UserError, ValidationError), match=said):
        distill(**options)


def test_mistakes_in_the_order(source):
    with pytest.raises(UserError, match="matches no parameter"):
        distill(stage="student", losses={"l1": 1.0}, train=("denoisr.*",)).convert(source)
    PASSES["decoder_join"]().convert(source)
    with pytest.raises(UserError, match="list stage decoder before it"):
        distill(stage="decoder", losses={"l1": 1.0}).convert(source)
    with pytest.raises(UserError, match="latent, gan compare latents"):
        distill(
            stage="student",
            losses={"latent": 1.0, "gan": 1.0},
            discriminator={"kind": "noise_aware"},
        ).convert(source)


def test_the_ledger_names_the_data(tmp_path):
    config = distill(stage="decoder", losses={"l1": 1.0})
    assert json.loads(config.data_key())[0] != ""
    with pytest.raises(UserError, match="does not exist"):
        distill(
            stage="decoder", losses={"l1": 1.0}, data={"folders": [str(tmp_path / "none")]}
        ).data_key()


@pytest.mark.slow
def test_lora_is_merged_and_resumes(source, tmp_path, monkeypatch):
    options = {
        "stage": "student",
        "target": "hr",
        "losses": {"mse": 4.0, "gan": 0.01},
        "train": ["denoiser.*"],
        "discriminator": {"kind": "noise_aware", "rank": 2, "alpha": 2},
        "lora": {"rank": 4, "alpha": 4},
        "steps": 3,
        "ema": 0.0,
        "lr": 1e-3,
    }
    results = []
    for name in ("whole", "killed"):
        trained = copy.deepcopy(source)
        before = values(trained, "")
        place = context(source, source, tmp_path / name)
        config = distill(**options)
        if name == "killed":
            with monkeypatch.context() as patch:
                patch.setattr(session, "train", killed("distill student", 2, checkpoint_every=1))
                with pytest.raises(KeyboardInterrupt):
                    config.fit(copy.deepcopy(trained), place)
        figures = config.fit(trained, place)
        assert trained.state_dict().keys() == before.keys()
        results.append(trained.state_dict())
    names = changed(before, trained)
    assert names
    assert all(name.startswith("denoiser.unet.") and name.endswith(".weight") for name in names)
    assert not any("norm" in name or "time_emb" in name for name in names)
    assert figures["trained_parameters"] < sum(p.numel() for p in source.parameters()) / 4
    for key, tensor in results[0].items():
        torch.testing.assert_close(results[1][key], tensor, rtol=1e-4, atol=1e-4, msg=key)


def test_lora_needs_layers_and_no_blend(source, tmp_path):
    config = distill(stage="student", losses={"l1": 1.0}, lora={}, train=["*.norm1.*"])
    with pytest.raises(UserError, match="no plain convolution or linear layer is left to learn"):
        config.fit(source, context(source, source, tmp_path))
    with pytest.raises((UserError, ValidationError), match="blend keeps a part of whole"):
        distill(stage="student", losses={"l1": 1.0}, lora={}, blend=0.5)


def test_a_look_at_the_model_changes_nothing_and_may_end_the_training(source, tmp_path):
    options = {"stage": "decoder", "losses": {"l1": 1.0}, "steps": 9, "samples_every": 100}
    lr = torch.rand(1, 3, 16, 16)
    results = []
    for name in ("alone", "watched"):
        model = copy.deepcopy(source)
        given = context(source, source, tmp_path / name)
        if name == "watched":
            given.watch = Watch("mean", (1 / 9, 1 / 3), lambda model, _: model(lr).mean().item())
        figures = distill(**options).fit(model, given)
        results.append(model.state_dict())
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])
    assert figures["watched"]["name"] == "mean"
    assert figures["watched"]["values"].keys() == {"0.111", "0.333"}

    def stop(*_):
        raise ValueError("enough")

    given = context(source, source, tmp_path / "stopped")
    given.watch = Watch("mean", (1 / 3,), stop)
    with pytest.raises(ValueError, match="enough"):
        distill(**options).fit(copy.deepcopy(source), given)
