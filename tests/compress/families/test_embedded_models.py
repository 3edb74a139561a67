"""The models inside the package.

Each loads without an argument, and makes a sharper picture of the same thing.
"""

from pathlib import Path

import pytest
import torch

import compress
from compress.families import FAMILIES
from compress.pipeline.routed import describe
from compress.process.resample import upsample
from compress.recipe.checkpoint import load_model
from compress.routing.router import Router
from eval.data.embedded import high, low


def sharpness(image: torch.Tensor) -> float:
    return image.diff(dim=-1).abs().mean().item() + image.diff(dim=-2).abs().mean().item()


@torch.no_grad()
@pytest.mark.parametrize("family", ["osediff", "adcsr", "resshift", "edge_sd_sr"])
def test_embedded_model(family):
    source = FAMILIES[family]()
    model = source.build()
    source.load(model)
    lr, hr = low("coffee")[..., :64, :64], high("coffee")[..., :256, :256]
    image = model(lr)
    psnr = -10 * torch.log10((image - hr).square().mean()).item()
    assert psnr > 20
    assert (image.mean((2, 3)) - hr.mean((2, 3))).abs().max() < 0.02
    # Detail that bicubic enlargement lacks, and not far more than there is.
    assert 1.1 * sharpness(upsample(lr)) < sharpness(image) < 1.5 * sharpness(hr)


@torch.no_grad()
@pytest.mark.parametrize("name", ["osediff_nano", "edge_nano"])
def test_embedded_router(name):
    """It belongs to the model beside it, costs little, and its CNN is no worse than bicubic."""
    assets = Path(compress.__file__).parent / "assets"
    router, model = (
        Router.load(assets / f"{name}_router.safetensors"),
        load_model(assets / f"{name}.safetensors"),
    )
    assert router.notes["model"] == describe(str(assets / f"{name}.safetensors"))
    lr, hr = low("coffee")[..., :64, :64], high("coffee")[..., :256, :256]
    routed = router.upscale(model, lr, budget=0.1)
    assert routed.macs <= 0.1 * routed.macs_diffusion
    assert routed.shares()["diffusion"] == 0
    cnn, bicubic = (router.upscale(model, lr, path=path).image for path in ("cnn", "bicubic"))
    assert sharpness(bicubic) < sharpness(cnn) < 1.5 * sharpness(hr)
