"""LDM-SR: its size, its chain, its files, and that it is a source like any other."""

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.families.ldm import FULL_UNET, LDMSource
from compress.model.sr_model import SRModel, Tiling
from compress.networks.pixel_denoiser import OLD_NAMES, renamed
from compress.passes.adaptive_steps import AdaptiveStepsPass
from compress.recipe.checkpoint import load_model, save_model


def nano(steps: int = 3) -> SRModel:
    """Random values."""
    model = LDMSource(steps=steps).build().to_empty(device="cpu")
    torch.manual_seed(0)
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    torch.nn.init.normal_(model.decoder.quantize.embedding.weight)
    return model.eval().requires_grad_(False)


def test_the_published_size():
    model = LDMSource(size="full").build()
    unet = sum(p.numel() for p in model.denoiser.parameters())
    assert unet == 113_622_563
    assert model.process.steps == 50
    assert model.multiple == 8


def test_the_published_cost():
    """160.78 GMACs a call at a latent of 128, and 1272.4 for the decoder."""
    cost = measure(LDMSource(size="full", steps=1).build(), (128, 128))
    parts = {name: total.macs_paper for name, total in cost.components().items()}
    assert parts["denoiser"] == pytest.approx(160.78e9, rel=1e-3)
    assert parts["decoder"] == pytest.approx(1272.4e9, rel=1e-3)


@torch.no_grad()
def test_the_chain_begins_at_noise_and_sees_the_image():
    model = nano()
    assert [call.component for call in model.wiring.steps] == ["denoiser"]
    lr = torch.rand(1, 3, 32, 32)
    first, other = model.network(lr), model.network(1 - lr)
    assert first.shape == (1, 3, 128, 128)
    assert (first - other).abs().max() > 1e-4
    torch.testing.assert_close(model.network(lr), first)


@torch.no_grad()
def test_in_tiles_and_with_fewer_steps():
    model = nano()
    model.tiling = Tiling(tile=16, overlap=8, margin=4)
    assert model(torch.rand(1, 3, 16, 24)).shape == (1, 3, 64, 96)
    AdaptiveStepsPass(calls=2).convert(model)
    assert model.process.steps == 2
    assert model(torch.rand(1, 3, 16, 24)).shape == (1, 3, 64, 96)


def test_noise_of_every_step_with_eta():
    assert LDMSource(steps=4, eta=1.0).build().noise.maps.shape[0] == 4
    assert LDMSource(steps=4).build().noise.maps.shape[0] == 1


@pytest.mark.slow
@torch.no_grad()
def test_it_is_saved_and_loaded(tmp_path):
    model = nano()
    save_model(model, tmp_path / "model.safetensors", LDMSource(steps=3), [])
    loaded = load_model(tmp_path / "model.safetensors")
    lr = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(loaded(lr), model(lr))


def test_names_of_older_files():
    with torch.device("meta"):
        unet = UNet2DModel(in_channels=6, out_channels=3, **FULL_UNET)
    names = set(unet.state_dict())
    old = {}
    for name in names:
        parts = name.replace("to_out.0", "proj_attn").split(".")
        back = {new: former for former, new in OLD_NAMES.items()}
        old[".".join(back.get(part, part) for part in parts)] = torch.empty(0)
    assert set(old) != names
    assert set(renamed(old)) == names


def test_missing_files(tmp_path):
    model = LDMSource(size="full").build()
    with pytest.raises(UserError, match=r"source\.unet: size 'full' needs the UNet's"):
        LDMSource(size="full").load(model)
    with pytest.raises(UserError, match=r"source\.weights: size 'nano' needs"):
        LDMSource().load(LDMSource().build())
    with pytest.raises(UserError, match="does not exist"):
        LDMSource(weights="nowhere").load(LDMSource().build())
    save_file({"x": torch.zeros(1)}, tmp_path / "unet.safetensors")
    wrong = LDMSource(size="full", unet=str(tmp_path / "unet.safetensors"), vq="v")
    with pytest.raises(UserError, match=r"source\.unet"):
        wrong.load(model)
