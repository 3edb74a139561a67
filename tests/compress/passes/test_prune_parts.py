"""prune on networks beside the UNet: control networks with it, and noise predictors."""

import copy

import pytest
import torch
from support.tiny_families import tiny_family

from compress.core.errors import UserError
from compress.data.config import Calibration
from compress.model.passes import FitContext
from compress.passes.near_attention import NearAttentionPass
from compress.passes.prune import Prune
from compress.passes.strip import Strip

LR = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CALIBRATION = Calibration(images=1, size=32)


def weights(model, name: str) -> int:
    return sum(p.numel() for p in getattr(model, name).parameters())


@pytest.mark.parametrize(("family", "steps"), [("ccsr", 2), ("addsr", 1), ("dossr", 1)])
@pytest.mark.parametrize("components", [("denoiser",), ("control",), ("control", "denoiser")])
@torch.no_grad()
def test_residuals_are_cut_with_the_skips(family, steps, components):
    model = tiny_family(family, steps, autoencoder=False)
    Strip().convert(model)
    before = copy.deepcopy(model)
    Prune(ratio=0.5, channels="dependency", components=components).convert(model)
    assert torch.isfinite(model.network(LR)).all()
    for name in ("control", "denoiser"):
        share = weights(model, name) / weights(before, name)
        assert (share < 0.5) == (name in components), (name, share)


@torch.no_grad()
def test_observed_channels_lose_less_than_the_first(tmp_path):
    source = tiny_family("ccsr", 1, autoencoder=False)
    expected = source.network(LR)
    errors = {}
    for channels in ("first", "activation"):
        step = Prune(
            ratio=0.75,
            channels=channels,
            components=("denoiser", "control"),
            calibration=CALIBRATION,
        )
        model = copy.deepcopy(source)
        step.convert(model)
        step.fit(model, FitContext(source=source))
        errors[channels] = (model.network(LR) - expected).square().mean().item()
    assert errors["activation"] < errors["first"]


@torch.no_grad()
def test_a_noise_predictor_is_cut():
    model = tiny_family("invsr", autoencoder=False)
    step = Prune(ratio=0.5, channels="l1", components=("noise_predictor",))
    before = weights(model, "noise_predictor")
    step.convert(model)
    assert model.noise_predictor(LR).shape == (1, 4, 8, 8)
    assert weights(model, "noise_predictor") < 0.5 * before
    near = tiny_family("invsr", autoencoder=False)
    NearAttentionPass(components=("noise_predictor",), side=4).convert(near)
    with pytest.raises(UserError, match="list prune before near_attention"):
        step.convert(near)
