"""The models inside the package.

Each loads without an argument, and makes a sharper picture of the same thing.
"""

import json
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

ASSETS = Path(compress.__file__).parent / "assets"


def psnr(image: torch.Tensor, original: torch.Tensor) -> float:
    return -10 * torch.log10((image - original).square().mean()).item()


def sharpness(image: torch.Tensor) -> float:
    """The steepest hundredth of all steps between neighbours: edges, and no noise."""
    steps = torch.cat([image.diff(dim=-1).abs().flatten(), image.diff(dim=-2).abs().flatten()])
    return steps.quantile(0.99).item()


@torch.no_grad()
@pytest.mark.parametrize(
    "family",
    [
        *("osediff", "adcsr", "resshift", "edge_sd_sr"),
        *("dfosd", "invsr", "ccsr", "addsr", "dossr", "tsdsr"),
    ],
)
def test_embedded_model(family):
    source = FAMILIES[family]()
    model = source.build()
    source.load(model)
    lr, hr = low("coffee")[..., :64, :64], high("coffee")[..., :256, :256]
    image = model(lr)
    assert psnr(image, hr) > 20
    assert (image.mean((2, 3)) - hr.mean((2, 3))).abs().max() < 0.02
    # Detail that bicubic enlargement lacks, and not far more than there is.
    assert 1.1 * sharpness(upsample(lr)) < sharpness(image) < 1.5 * sharpness(hr)


def test_the_card_s_curve_is_the_record_s():
    record = json.loads((ASSETS / "osediff_nano.json").read_text())
    card = (ASSETS / "osediff_nano.md").read_text()
    points = record["curve"]["points"]
    assert len(points) > 3
    for point in points:
        trained = sum(stage["seconds"] for stage in record["stages"][: point["after_stages"]])
        assert point["seconds"] == trained
        row = (
            f"| {trained / 3600:.1f} | {point['psnr']:.2f} | {point['ssim']:.3f} | "
            f"{point['lpips-squeeze']:.4f} | {point['fsim']:.4f} |"
        )
        assert row in card
    assert points[-1]["seconds"] == record["seconds_on_one_core"]


@torch.no_grad()
def test_the_denoiser_of_osediff_restores(monkeypatch):
    """With a prediction of zero the result is at least 3 dB further from the photograph."""
    model = load_model(ASSETS / "osediff_nano.safetensors")
    lr, hr = low("coffee")[..., :64, :64], high("coffee")[..., :256, :256]
    whole = psnr(model(lr), hr)
    predict = model.denoiser.forward
    monkeypatch.setattr(model.denoiser, "forward", lambda *given: 0 * predict(*given))
    assert psnr(model(lr), hr) < whole - 3


@torch.no_grad()
@pytest.mark.parametrize("name", ["osediff_nano", "edge_nano"])
def test_embedded_router(name):
    """It belongs to the model beside it, costs little, and its CNN is no worse than bicubic."""
    router, model = (
        Router.load(ASSETS / f"{name}_router.safetensors"),
        load_model(ASSETS / f"{name}.safetensors"),
    )
    assert router.notes["model"] == describe(str(ASSETS / f"{name}.safetensors"))
    lr, hr = low("coffee")[..., :64, :64], high("coffee")[..., :256, :256]
    routed = router.upscale(model, lr, budget=0.1)
    assert routed.macs <= 0.1 * routed.macs_diffusion
    assert routed.shares()["diffusion"] == 0
    cnn, bicubic = (router.upscale(model, lr, path=path).image for path in ("cnn", "bicubic"))
    assert sharpness(bicubic) < sharpness(cnn) < 1.5 * sharpness(hr)
