"""Every pass on TSD-SR: it acts, or says in one sentence why not."""

import copy

import pytest
import torch
from support.onnx_parity import check_onnx
from support.tiny_families import tiny_family

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.families.tsdsr import TSDSRSource
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.passes import PASSES
from compress.process.direct import Direct
from compress.recipe.checkpoint import parse_pass, save_model

LR = torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(0))
CALIBRATION = {"images": 2, "size": 32}
# Keys of the passes that act.
ACT = {
    "strip": {"text": "remove", "upsample": "phases"},
    "encoder_swap": {},
    "encoder_light": {"channels": 8, "blocks": 1},
    "prune": {"calibration": CALIBRATION},
    "decoder_halve": {"calibration": CALIBRATION},
    "decoder_light": {"steps": 0, "widths": [8, 8, 8, 8], "blocks": [1, 1, 1, 1]},
    "depth_prune": {"blocks": ["transformer_blocks.1"], "calibration": CALIBRATION},
    "near_attention": {"components": ["encoder", "decoder"], "kind": "averages", "side": 2},
    "binarize": {"rank": 2},
    "quantize": {"method": "minmax", "calibration": CALIBRATION},
}
REFUSE = {
    "freeze": ({"component": "text_encoder"}, "makes context, pooled"),
    "decoder_join": ({}, "joins a UNet to an autoencoder's decoder, not a MMDiTDenoiser"),
    "bidirectional": ({}, "needs a VAE encoder and a UNet"),
    "one_step": ({}, "takes one step already"),
    "adaptive_steps": ({"calls": 2}, "of which none can be left out"),
    "reference_adapter": ({}, "knows the UNet of a one-step model"),
    "depth_gates": ({}, "list strip with text: remove before it"),
    "pack": ({}, "has no binary layer to pack"),
}


def refused(name: str, keys: dict, model: SRModel) -> str:
    with pytest.raises(UserError) as caught:
        parse_pass({"pass": name, **keys}, "test").convert(model)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ACT))
def test_it_acts(name):
    model = tiny_family("tsdsr")
    source = copy.deepcopy(model)
    step = parse_pass({"pass": name, **ACT[name]}, "test")
    step.convert(model)
    step.fit(model, FitContext(source=source))
    with torch.no_grad():
        image = model.network(LR)
    assert image.shape == (1, 3, 64, 128)
    assert image.isfinite().all()
    assert measure(model, (32, 32)).totals() != measure(source, (32, 32)).totals()


@pytest.mark.parametrize("name", list(REFUSE))
def test_it_refuses_in_one_sentence(name):
    keys, words = REFUSE[name]
    said = refused(name, keys, tiny_family("tsdsr"))
    assert words in said
    assert "\n" not in said


def test_distill_acts_and_gives_no_prior():
    model = tiny_family("tsdsr")
    keys = {"stage": "student", "losses": {"latent": 1.0}, "steps": 1, "train": ["denoiser.*"]}
    parse_pass({"pass": "distill", **keys}, "test").convert(model)
    keys |= {"losses": {"tsm": 1.0}, "prior": {"base": "source"}}
    assert "the denoiser reads pooled besides its state" in refused("distill", keys, model)


@torch.no_grad()
def test_interpolate_acts(tmp_path):
    model, faithful = tiny_family("tsdsr"), tiny_family("tsdsr")
    for value in faithful.parameters():
        value.zero_()
    save_model(faithful, tmp_path / "model.safetensors", TSDSRSource(), [])
    own = {name: value.clone() for name, value in model.named_parameters()}
    step = parse_pass({"pass": "interpolate", "weights": str(tmp_path)}, "test")
    step.convert(model)
    step.fit(model, FitContext(source=model))
    for name, value in model.named_parameters():
        torch.testing.assert_close(value, 0.5 * own[name])


def test_every_pass_is_here():
    assert set(PASSES) == {*ACT, *REFUSE, "distill", "interpolate"}


@torch.no_grad()
def test_swapping_the_encoder_turns_the_prediction_into_minus_the_velocity():
    model = tiny_family("tsdsr")
    parse_pass({"pass": "encoder_swap"}, "test").convert(model)
    source = tiny_family("tsdsr")
    assert isinstance(model.process, Direct)
    assert model.denoiser.transformer.pos_embed.proj.in_channels == 12
    latent = model.encoder(LR)
    padded = latent[:, [0, 1, 2, 3]].clone()
    own = model.denoiser.transformer.pos_embed.proj
    own.weight[:, 4:] = 0
    found = model.denoiser(latent, *model.text_encoder())
    assert torch.allclose(found, -source.denoiser(padded, *source.text_encoder()), atol=1e-5)


def test_full_size_takes_pixels():
    model = TSDSRSource(size="full").build()
    parse_pass({"pass": "encoder_swap"}, "test").convert(model)
    assert model.denoiser.transformer.pos_embed.proj.weight.shape == (1536, 12, 2, 2)
    parse_pass({"pass": "encoder_light"}, "test").convert(TSDSRSource(size="full").build())


@pytest.mark.slow
def test_onnxruntime_computes_the_same():
    model = tiny_family("tsdsr")
    parse_pass({"pass": "strip"}, "test").convert(model)
    check_onnx(model.denoiser, torch.randn(1, 4, 8, 16))
