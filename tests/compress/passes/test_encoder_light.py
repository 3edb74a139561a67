"""encoder_light: a small encoder under any wiring; latent and process stay."""

import copy

import pytest
import torch
from support.onnx_parity import check_onnx
from support.tiny_families import tiny_family

from compress.core.errors import UserError
from compress.model.passes import FitContext
from compress.passes.encoder_light import EncoderLight

LR = torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("family", "components", "factor"),
    [("ccsr", ("encoder",), 2), ("dossr", ("encoder", "condition_encoder"), 8)],
)
@torch.no_grad()
def test_the_latent_keeps_its_size_and_the_process_stays(family, components, factor):
    source = tiny_family(family)
    model = copy.deepcopy(source)
    step = EncoderLight(components=components, channels=8, blocks=1)
    step.convert(model)
    step.fit(model, FitContext(source=source))
    assert model.process == source.process
    assert all(getattr(model, name).factor == factor for name in components)
    assert model.network(LR).shape == (1, 3, 64, 128)
    again = copy.deepcopy(source)
    step.convert(again)
    step.fit(again, FitContext(source=source))
    assert torch.equal(again.network(LR), model.network(LR))


@pytest.mark.slow
def test_onnxruntime_computes_the_same():
    model = tiny_family("invsr")
    EncoderLight(channels=8, blocks=1).convert(model)
    check_onnx(model.encoder, LR)


def test_other_components_are_refused():
    with pytest.raises(UserError, match="the denoiser is a UNetDenoiser, not an autoencoder's"):
        EncoderLight(components=("denoiser",)).convert(tiny_family("dfosd"))
