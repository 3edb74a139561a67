"""encoder_swap on models of more parts than encoder, denoiser and decoder."""

import copy

import pytest
import torch
from support.tiny_families import tiny_family
from torch import nn

from compress.core.errors import UserError
from compress.cost.count import measure, meta_copy
from compress.families import FAMILIES
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.passes.distill import Distill
from compress.passes.encoder_swap import EncoderSwap
from compress.passes.one_step import OneStep
from compress.passes.reference_adapter import ReferenceAdapter
from compress.process.direct import Direct

LR = torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(0))
CONTROLLED = ["hint", "control", "denoiser", "decoder"]
# What is left, and how many pixels one of the latent is made of.
LEFT = {
    "dfosd": (["encoder", "denoiser", "decoder"], 4),
    "invsr": (["encoder", "denoiser", "decoder"], 4),
    "ccsr": (["encoder", *CONTROLLED], 4),
    "addsr": (["squeeze", "tokens", "enlarge", "encoder", *CONTROLLED], 4),
    "dossr": (["preprocessor", "condition_encoder", "encoder", *CONTROLLED], 64),
    "tsdsr": (["text_encoder", "encoder", "denoiser", "decoder"], 4),
}


def swapped(model: SRModel) -> SRModel:
    EncoderSwap().convert(model)
    return model


@torch.no_grad()
@pytest.mark.parametrize("family", LEFT)
def test_it_acts_on_one_step(family):
    left, pixels = LEFT[family]
    model = swapped(tiny_family(family))
    assert [name for name, _ in model.components()] == left
    assert [call.component for call in model.wiring.calls if getattr(model, call.component)] == left
    assert isinstance(model.process, Direct)
    latent = model.values_before("denoiser", model.given(LR))["latent"]
    assert latent.shape == (1, 3 * pixels, 8, 16)
    image = model.network(LR)
    assert image.shape == (1, 3, 64, 128)
    assert (image - model.network(LR.flip(3))).abs().max() > 0


@pytest.mark.parametrize("family", ["invsr", "ccsr", "addsr", "dossr"])
def test_a_chain_becomes_one_step_first(family):
    with pytest.raises(UserError, match=r"takes [2-9] steps.*list one_step before it"):
        EncoderSwap().convert(tiny_family(family, 2))
    model = tiny_family(family, 2)
    OneStep().convert(model)
    assert [name for name, _ in swapped(model).components()] == LEFT[family][0]


@torch.no_grad()
def test_control_network_and_unet_see_the_same_pixels():
    source = tiny_family("ccsr")
    model = swapped(copy.deepcopy(source))
    for layer, own in (
        (model.denoiser.unet.conv_in, source.denoiser.unet.conv_in),
        (model.control.conv_in, source.control.conv_in),
        (model.hint, source.hint),
    ):
        assert torch.equal(layer.weight, own.weight[:, [0, 1, 2, 3] * 3])
        layer.weight[:, 4:] = 0
    first = model.encoder(LR)[:, :4]  # the channels that are left
    context = source.denoiser.context
    residuals = source.control(first, source.hint(first), context)
    expected = source.denoiser(first, context, *residuals)
    found = model.latent_of(model.given(LR))
    torch.testing.assert_close(found, expected)


def test_the_pixels_are_those_of_what_was_enlarged():
    model = swapped(tiny_family("addsr"))
    assert model.wiring.call("encoder").inputs == ("lr",)
    assert model.wiring.call("hint").inputs == tiny_family("addsr").wiring.call("hint").inputs


def test_the_pixels_are_those_of_the_preprocessor():
    model = swapped(tiny_family("dossr"))
    assert model.wiring.call("encoder").inputs == model.wiring.call("preprocessor").outputs
    assert model.hint.in_channels == 4  # it reads the other encoder


def test_noise_of_a_sampled_posterior_goes():
    for family in ("ccsr", "tsdsr", "invsr"):
        model = swapped(FAMILIES[family](sample=True).build())
        assert not hasattr(model, "noise")


@torch.no_grad()
@pytest.mark.parametrize("family", LEFT)
def test_same_structure_on_meta_and_round_trip(family):
    model = tiny_family(family, autoencoder=False)
    built = meta_copy(model)
    swapped(built)
    assert all(p.is_meta for p in built.parameters())
    swapped(model)
    again = swapped(tiny_family(family, autoencoder=False))
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (built, model)]
    assert shapes[0] == shapes[1]
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.network(LR), model.network(LR))


@pytest.mark.parametrize(
    ("family", "options", "layer"),
    [
        ("invsr", {}, "denoiser.unet.conv_in"),
        ("ccsr", {}, "control.conv_in"),
        ("addsr", {"steps": 1}, "control.conv_in"),
        ("dossr", {"steps": 1}, "control.conv_in"),
    ],
)
def test_full_size_takes_pixels(family, options, layer):
    model = FAMILIES[family](size="full", **options).build()
    before = measure(model).macs_paper
    swapped(model)
    assert measure(model).macs_paper < before
    count = 3 * LEFT[family][1]
    assert model.get_submodule(layer).weight.shape == (320, count, 3, 3)


def test_what_it_cannot_widen_is_a_sentence():
    model = tiny_family("dfosd")
    adapter = ReferenceAdapter(references=1, size=64, levels=(0,))
    adapter.convert(model)
    with pytest.raises(UserError, match="reads the encoder's latent as well and is a"):
        EncoderSwap().convert(model)
    model = tiny_family("ccsr")
    model.hint = nn.Sequential(model.hint)
    with pytest.raises(UserError, match="the hint reads the encoder's latent as well and is a Seq"):
        EncoderSwap().convert(model)
    with pytest.raises(UserError, match="swapped already; list the pass once"):
        EncoderSwap().convert(swapped(tiny_family("dfosd")))


@pytest.mark.slow
def test_distillation_teaches_it(tmp_path):
    source = tiny_family("invsr")
    model = swapped(copy.deepcopy(source))
    config = Distill(
        stage="student",
        losses={"latent": 1.0},
        train=("denoiser.*",),
        steps=10,
        batch=2,
        crop=64,
        lr=1e-3,
        precision="fp32",
        ema=0.0,
    )
    config.convert(model)

    def distance() -> float:
        with torch.no_grad():
            found, wanted = (one.latent_of(one.given(LR)) for one in (model, source))
        return (found - wanted).abs().mean().item()

    before = distance()
    config.fit(model, FitContext(source=source, workdir=tmp_path))
    assert distance() < 0.98 * before
