"""The process around the networks.

One step in closed form, colour fixes, tiles, images of any size.
"""

import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from compress.core.errors import UserError
from compress.families.osediff import OSEDiffSource
from compress.model.sr_model import SRModel, Tiling
from compress.process.colour import FIXES, ColourFix, adain, mean_std, wavelet
from compress.process.one_step import OneStep, alphas_cumprod
from compress.process.resample import upsample
from compress.process.tiling import gaussian_weights, tile_starts, tiled


def test_one_step_coefficients():
    step = OneStep()
    # The published figure carries diffusers' float32 rounding; in float64 the schedule ends 3.4e-9
    # higher.
    assert step.alpha_bar == pytest.approx(0.0046600951, abs=4e-9)
    assert step.signal == pytest.approx(0.0682649, abs=1e-7)
    assert step.noise == pytest.approx(0.9976672, abs=1e-7)
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    assert step.clean_latent(one, 0 * one).item() == pytest.approx(14.65, abs=5e-3)
    assert -step.clean_latent(0 * one, one).item() == pytest.approx(14.61, abs=5e-3)


def test_schedule_is_that_of_diffusers():
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    ).alphas_cumprod
    assert torch.allclose(alphas_cumprod().float(), theirs, rtol=1e-4, atol=0)


def test_prediction_for_is_the_inverse():
    step, latent, clean = OneStep(), *torch.randn(2, 1, 4, 8, 8, dtype=torch.float64)
    assert torch.allclose(
        step.clean_latent(latent, step.prediction_for(latent, clean)), clean, atol=1e-11
    )
    prediction = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    assert torch.allclose(
        step.prediction_for(latent, step.clean_latent(latent, prediction)), prediction, atol=1e-11
    )
    assert step.clean_latent(latent.half(), prediction.half()).dtype == torch.float32


@pytest.fixture(scope="module")
def golden(shared) -> dict[str, torch.Tensor]:
    spec = json.loads((shared / "golden/colour_fix.json").read_text())
    assert spec["tolerance"]["float_max_abs"] == 5e-6
    return {k: v for file in spec["files"] for k, v in load_file(shared / "golden" / file).items()}


def to_bytes(image: torch.Tensor) -> torch.Tensor:
    """[0, 1] -> 0..255 as the originals do it: clamp and truncate."""
    return (image.clamp(0, 1) * 255).floor()


def assert_same_bytes(found: torch.Tensor, expected: torch.Tensor) -> None:
    difference = (found - expected).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() <= 1e-3


@pytest.mark.parametrize("case", ["a", "b"])
@pytest.mark.parametrize(("name", "fix"), [("adain", adain), ("wavelet", wavelet)])
def test_colour_fix_of_osediff(golden, case, name, fix):
    target, source = golden[f"inputs.{case}.target"] / 255, golden[f"inputs.{case}.source"] / 255
    result = fix(target, source)
    assert (result - golden[f"outputs.{case}.{name}_float"]).abs().max() <= 5e-6
    assert_same_bytes(to_bytes(result), golden[f"outputs.{case}.{name}"])


@pytest.mark.parametrize("case", ["a", "b"])
def test_colour_fix_of_adcsr(golden, case):
    result = mean_std(golden[f"inputs.{case}.sr"], golden[f"inputs.{case}.lr"])
    assert (result - golden[f"outputs.{case}.adcsr_float"]).abs().max() <= 5e-6
    assert_same_bytes(to_bytes(result / 2 + 0.5), golden[f"outputs.{case}.adcsr"])


def test_flat_images_stay_finite():
    flat, source = torch.full((1, 3, 8, 8), 0.3), torch.rand(1, 3, 8, 8)
    for fix in (adain, wavelet, mean_std):
        assert fix(flat, source).isfinite().all()
    assert torch.allclose(
        mean_std(flat, source), source.mean((-2, -1), keepdim=True).expand_as(flat)
    )


def test_fixes_by_name():
    """OSEDiff clamps and takes the enlarged input, AdcSR takes both images as they are."""
    assert tuple(FIXES) == ColourFix.__args__
    image, lr = 3 * torch.rand(2, 3, 64, 96) - 1, torch.rand(2, 3, 16, 24)
    assert torch.equal(FIXES["adain"](image, lr), adain(image.clamp(0, 1), upsample(lr)))
    assert torch.equal(FIXES["wavelet"](image, lr), wavelet(image.clamp(0, 1), upsample(lr)))
    assert torch.equal(FIXES["mean_std"](image, lr), mean_std(image, lr))
    assert torch.equal(FIXES["none"](image, lr), image)
    fixed = FIXES["mean_std"](image, lr)
    assert torch.allclose(fixed.mean((2, 3)), lr.mean((2, 3)), atol=1e-6)
    assert torch.allclose(fixed.std((2, 3)), lr.std((2, 3)), atol=1e-6)


@pytest.mark.parametrize("size", [16, 24])
def test_tile_weights(golden, size):
    expected = golden[f"outputs.tile_weights_{size}"]
    assert expected.dtype == torch.float64
    # relative: the weights span ten decades and only their ratios matter
    assert ((gaussian_weights(size, size) - expected).abs() / expected).max() <= 1e-12


@pytest.mark.parametrize(
    ("length", "tile", "overlap"), [(5, 8, 2), (8, 8, 2), (9, 8, 2), (31, 8, 3), (200, 96, 32)]
)
def test_tiles_cover_and_overlap(length, tile, overlap):
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] + tile >= length
    assert starts[-1] <= max(length - tile, 0)
    assert all(b - a <= tile - overlap for a, b in itertools.pairwise(starts))


@pytest.mark.parametrize("size", [(8, 8), (9, 8), (13, 29), (40, 17)])
def test_tiling_with_identity_and_constant(size):
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    assert torch.allclose(tiled(lambda t: t, x, tile=8, overlap=3), x, atol=1e-14)
    constant = torch.full((1, 4, *size), 0.37, dtype=torch.float64)
    assert torch.allclose(tiled(lambda t: t, constant, tile=8, overlap=3), constant, atol=1e-14)


@pytest.mark.parametrize("scale", [2, 0.5])
def test_tiling_with_a_change_of_scale(scale):
    def nearest(t: torch.Tensor) -> torch.Tensor:
        return F.interpolate(t, scale_factor=scale, mode="nearest")

    x = torch.rand(1, 2, 26, 34, dtype=torch.float64)
    assert torch.allclose(
        tiled(nearest, x, tile=12, overlap=4, scale=scale, align=2), nearest(x), atol=1e-14
    )


def test_aligned_tiles_keep_their_overlap():
    starts = []
    tiled(
        lambda t: starts.append(int(t[0, 0, 0, 0])) or t,
        torch.arange(208.0).expand(1, 1, 16, 208),
        64,
        32,
        align=16,
    )
    assert all(start % 16 == 0 for start in starts)
    assert all(b - a <= 64 - 32 for a, b in itertools.pairwise(starts))
    assert starts[-1] + 64 == 208


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (30, 21)])
def test_model_takes_odd_sizes(random_nano, size):
    with torch.no_grad():
        image = random_nano(torch.rand(1, 3, *size))
    assert image.shape == (1, 3, 4 * size[0], 4 * size[1])
    assert image.isfinite().all()
    assert image.min() >= 0
    assert image.max() <= 1


def test_a_padded_image_is_the_crop_of_the_whole(random_nano):
    random_nano.colour_fix, random_nano.tiling = "none", Tiling()
    lr = torch.rand(1, 3, 20, 28)
    padded = F.pad(lr, (0, 4, 0, 12), mode="reflect")
    with torch.no_grad():
        whole = random_nano.network(padded).clamp(0, 1)
        assert torch.allclose(random_nano(lr), whole[..., :80, :112], atol=1e-6)


def test_large_images_run_in_tiles(random_nano):
    stages, sizes = [], set()
    random_nano.tiling = Tiling(tile=16, overlap=8)
    handle = random_nano.denoiser.register_forward_hook(
        lambda m, args, out: sizes.add(tuple(args[0].shape[-2:]))
    )
    with torch.no_grad():
        image = random_nano(torch.rand(1, 3, 50, 34), stages.append)
    handle.remove()
    assert image.shape == (1, 3, 200, 136)
    assert image.isfinite().all()
    assert stages == ["encoder", "denoiser", "decoder"]
    assert sizes == {(16, 16)}


def test_colour_statistics_are_those_of_the_whole_image(random_nano):
    random_nano.tiling, random_nano.colour_fix = Tiling(tile=16, overlap=8), "none"
    lr = torch.rand(1, 3, 48, 48)
    with torch.no_grad():
        plain = random_nano(lr)
        random_nano.colour_fix = "adain"
        assert torch.equal(random_nano(lr), adain(plain, upsample(lr)).clamp(0, 1))


@pytest.mark.slow
def test_images_of_several_tiles_may_have_a_correction_of_their_own(random_nano):
    """The nano model's: a tint that differs from tile to tile is no matter of one mean."""
    assert OSEDiffSource().build().tiling.colour_fix == "wavelet"
    assert OSEDiffSource(size="sd21").build().tiling == Tiling()
    random_nano.tiling, random_nano.colour_fix = Tiling(16, 8, "wavelet"), "adain"
    small, large = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        found = [random_nano(small), random_nano(large)]
        random_nano.colour_fix = "none"
        plain = [random_nano(small), random_nano(large)]
    assert torch.equal(found[0], FIXES["adain"](plain[0], small).clamp(0, 1))
    assert torch.equal(found[1], FIXES["wavelet"](plain[1], large).clamp(0, 1))


def test_user_errors(random_nano):
    with pytest.raises(UserError, match="too small"):
        random_nano(torch.rand(1, 3, 15, 64))
    with pytest.raises(UserError, match="adain, wavelet, mean_std, ycbcr, none"):
        SRModel({}, OneStep(), colour_fix="x")
