"""The light decoder: counts, learning from the old decoder's features, resuming, refusals."""

import copy
import json

import pytest
import torch
from support.killed import killed
from support.tiny_model import tiny

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.data.calibration import calibration_images
from compress.families.adcsr import AdcSRSource
from compress.families.osediff import OSEDiffSource
from compress.families.resshift import ResShiftSource
from compress.model.passes import FitContext
from compress.networks.edge import LightDecoder
from compress.passes import PASSES
from compress.recipe.checkpoint import convert_all, parse_pass
from compress.training import light_decoder, session

SMALL = {"widths": [16, 16, 12], "blocks": [1, 1, 1], "shuffle": True}


def decoder_light(**options):
    given = {
        "pass": "decoder_light",
        "steps": 0,
        "batch": 2,
        "crop": 64,
        "precision": "fp32",
        **options,
    }
    return parse_pass(given, "test")


@pytest.fixture
def model():
    source = OSEDiffSource()
    built = source.build()
    source.load(built)
    return built


def context(before, folder):
    return FitContext(source=before, before=lambda name: copy.deepcopy(before), workdir=folder)


@pytest.mark.parametrize(
    ("size", "params", "gmacs"), [("default", 9.50, 82.7), ("lite", 5.25, 32.8)]
)
def test_counts_of_the_facts(size, params, gmacs):
    model = convert_all(OSEDiffSource(size="sd21"), [decoder_light(size=size)])
    cost = measure(model).component("decoder")
    assert cost.params / 1e6 == pytest.approx(params, abs=0.01)
    assert cost.macs_paper / 1e9 == pytest.approx(gmacs, abs=0.1)
    assert cost.macs_paper == cost.macs_full


def test_the_size_is_written_out():
    written = decoder_light(size="nano").model_dump(by_alias=True)
    assert written["widths"] == (96, 48, 24)
    assert written["shuffle"] is True
    again = parse_pass({**written, "widths": [64, 48, 24]}, "saved")  # what the file says holds
    assert again.widths == (64, 48, 24)


def test_training_brings_it_nearer_to_the_old_decoder(model, tmp_path):
    step = decoder_light(**SMALL, steps=30, lr=6e-3, losses={"feature": 0.2, "l1": 1.0}, ema=0.5)
    before = copy.deepcopy(model)
    step.convert(model)
    others = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("decoder.")}
    lr = calibration_images("embedded", 1, 32, 0)[0]
    decoder_light(**SMALL).fit(model, context(before, tmp_path / "a"))
    with torch.no_grad():
        start = (model.network(lr) - before.network(lr)).abs().mean()
    figures = step.fit(model, context(before, tmp_path / "b"))
    with torch.no_grad():
        assert (model.network(lr) - before.network(lr)).abs().mean() < 0.7 * start
        assert model(lr).shape == (1, 3, 128, 128)
    log = figures["log"]
    assert {"feature", "l1", "loss"} <= log[-1].keys()
    assert log[-1]["l1"] == log[-1]["l1"]
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in others.items())
    assert not any(m._forward_hooks for m in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    assert set(model.state_dict()) == set(convert_all(OSEDiffSource(), [step]).state_dict())


def test_resume_gives_what_an_unbroken_run_gives(tmp_path, monkeypatch):
    before, model, step = tiny(), tiny(), decoder_light(**SMALL, steps=4, checkpoint_every=2)
    step.convert(model)
    whole, broken, again = (copy.deepcopy(model) for _ in range(3))
    step.fit(whole, context(before, tmp_path / "a"))

    with monkeypatch.context() as patch:
        patch.setattr(session, "train", killed("decoder_light", 3))
        with pytest.raises(KeyboardInterrupt):
            step.fit(broken, context(before, tmp_path / "b"))
    step.fit(again, context(before, tmp_path / "b"))
    for name, value in whole.decoder.state_dict().items():
        torch.testing.assert_close(again.decoder.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_a_seed_is_a_start(model):
    before, values = copy.deepcopy(model), []
    decoder_light(**SMALL).convert(model)
    for seed in (0, 0, 1):
        decoder_light(**SMALL).fit(model, FitContext(source=before, seed=seed))
        values.append(model.decoder.conv_in.weight.clone())
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_features_are_paired_by_size(model):
    stage = light_decoder.DecoderDistillation(
        LightDecoder((16, 16, 12), (1, 1, 1), 12, True), model, {"feature": 1.0}, None, None, (0,)
    )
    stage.prepare(torch.randn(1, 12, 8, 8))
    shapes = {ratio: tuple(a.weight.shape[:2]) for ratio, a in stage.adapters.items()}
    assert shapes == {
        "1": (64, 16),
        "2": (64, 16),
        "4": (64, 12),
    }  # [teacher, student]; no map of the shuffle's size


def test_after_joining_it_takes_features_and_distill_follows(model, tmp_path):
    joined = convert_all(AdcSRSource(), [decoder_light(size="nano")])
    assert joined.decoder.conv_in.in_channels == joined.denoiser.unet.conv_out.out_channels > 4
    before = copy.deepcopy(model)
    step = decoder_light(**SMALL)
    step.convert(model)
    step.fit(model, context(before, tmp_path))
    tune = PASSES["distill"](
        stage="student",
        target="hr",
        losses={"l1": 1.0},
        train=("decoder.*",),
        steps=1,
        batch=1,
        crop=64,
        precision="fp32",
    )
    tune.convert(model)
    assert tune.fit(model, context(before, tmp_path))["trained_parameters"] == sum(
        p.numel() for p in model.decoder.parameters()
    )
    feature = PASSES["distill"](
        stage="student",
        losses={"feature": 1.0},
        train=("denoiser.*",),
        steps=1,
        batch=1,
        crop=64,
        precision="fp32",
    )
    with pytest.raises(UserError, match="another decoder"):
        feature.fit(model, context(before, tmp_path / "feature"))


def test_mistakes(tmp_path):
    for options, said in (
        ({"widths": [8, 8], "blocks": [1]}, "same levels"),
        ({}, "widths"),
        ({"size": "big"}, "size"),
        ({**SMALL, "losses": {"lpips": 1.0}}, "lpips needs lpips_weights"),
    ):
        with pytest.raises(UserError, match=said):
            decoder_light(**options)
    with pytest.raises(UserError, match="enlarge 4 times, the latent needs 8"):
        decoder_light(widths=[16, 16, 16], blocks=[1, 1, 1]).convert(OSEDiffSource().build())
    with pytest.raises(UserError, match="KL autoencoder"):
        decoder_light(size="nano").convert(ResShiftSource().build())
    assert decoder_light(size="nano").data_key() == ""
    assert json.loads(decoder_light(size="nano", steps=1).data_key())[0]
