"""TSD-SR: the authors' numbers from bytes to bytes, counts, configs, sources."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import ValidationError
from support.call_by_call import watched
from support.given_noise import GivenNoise
from support.golden import Golden
from support.tsdsr_golden import published, write_release

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.families.tsdsr import NOISE, TSDSRSource, published_tiling
from compress.model.sr_model import SRModel, Tiling
from compress.model.tiled_run import TiledRun
from compress.process.colour import adain, wavelet
from compress.process.resample import upsample
from compress.process.shared_norms import running_in_tiles
from compress.process.velocity import VelocityStep
from compress.recipe.checkpoint import parse_pass

LEAST_SHARE = 0.005  # of the bytes, which may be one level off by truncation


@pytest.fixture(scope="module")
def transformer(shared) -> Golden:
    return Golden(shared / "golden", "tsdsr_mmdit")


@pytest.fixture(scope="module")
def golden(shared) -> Golden:
    return Golden(shared / "golden", "tsdsr_pipeline")


@pytest.fixture(scope="module")
def files(tmp_path_factory, transformer, golden):
    return write_release(tmp_path_factory.mktemp("release"), transformer, golden)


def model_of(golden: Golden, transformer: Golden, files, case: str) -> SRModel:
    return published(files, transformer, golden, GivenNoise(golden[f"inputs.{case}.noise"]))


def lr_of(golden: Golden, case: str) -> torch.Tensor:
    return golden[f"inputs.{case}.lr"][None].float() / 255


def to_bytes(image: torch.Tensor) -> np.ndarray:
    """uint8 [h, w, 3] by truncation of an image in [0, 1]."""
    return (image.clamp(0, 1)[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()


def to_image(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def enlarged(lr: torch.Tensor) -> torch.Tensor:
    """Four times as large, in [-1, 1]."""
    return upsample(lr).clamp(0, 1) * 2 - 1


def check_bytes(found: np.ndarray, golden: Golden, name: str) -> None:
    expected = golden[f"outputs.{name}"].permute(1, 2, 0).numpy()
    apart = np.abs(found.astype(int) - expected.astype(int))
    assert apart.max() <= 1, name
    assert (apart > 0).mean() < LEAST_SHARE, name


@torch.no_grad()
@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_bytes_to_bytes_is_the_authors(golden, transformer, files, case):
    facts = golden.facts["config"]["cases"][case]
    model = model_of(golden, transformer, files, case)
    lr = lr_of(golden, case)
    # The authors enlarge straight to the final size; the package pads small images instead.
    image = F.interpolate(lr, facts["processed"], mode="bicubic", align_corners=False)
    image = image.clamp(0, 1) * 2 - 1
    golden.check(image, f"{case}.pixel_values")
    golden.check(torch.cat(model.encoder.moments(image), dim=1), f"{case}.moments")
    latent = model.encoder.encode(image, golden[f"inputs.{case}.noise"])
    golden.check(latent, f"{case}.z")
    values = {"lr": lr, "latent": latent} | model.constants()
    run = TiledRun(model, model.tiling, facts["tiles"] > 1, model.multiple)
    clean = run._restore(values)
    golden.check(clean / model.decoder.scaling_factor, f"{case}.decoder_input")
    decoded = model.decoder(clean)
    golden.check(2 * decoded.clamp(0, 1) - 1, f"{case}.decoded")
    height, width = (4 * side for side in lr.shape[-2:])
    saved = to_bytes(decoded)
    if saved.shape[:2] != (height, width):
        saved = np.array(Image.fromarray(saved).resize((width, height)))
    check_bytes(saved, golden, f"{case}.before_colour_fix")
    source = golden[f"outputs.{case}.colour_source"].permute(1, 2, 0).numpy()
    fix = {"wavelet": wavelet, "adain": adain}[facts["align_method"]]
    check_bytes(to_bytes(fix(to_image(saved), to_image(source))), golden, f"{case}.final")


@torch.no_grad()
def test_the_model_runs_what_the_authors_call(golden, transformer, files):
    model = model_of(golden, transformer, files, "a")
    lr = lr_of(golden, "a")
    values = model.values_before("denoiser", model.given(lr))
    golden.check(values["latent"], "a.z")
    values["clean_latent"], seen = watched(model, values)
    golden.check(seen["denoiser"][0][1][0], "a.v")
    golden.check(2 * model.image_of(values).clamp(0, 1) - 1, "a.decoded")
    rows = torch.cat(list(model.image_rows(lr)), dim=-2)
    assert (rows - model.image_of(values)).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("case", ["b", "c"])
def test_each_tiles_velocity_is_the_authors(golden, transformer, files, case):
    model = model_of(golden, transformer, files, case)
    found = model.denoiser(golden[f"outputs.{case}.tiles_in"], *model.text_encoder())
    golden.check(found, f"{case}.tiles_v")


@torch.no_grad()
def test_a_large_image_is_encoded_whole(golden, transformer, files):
    model = model_of(golden, transformer, files, "d")
    lr = lr_of(golden, "d")
    moments = model.encoder.moments(enlarged(lr))
    golden.check(torch.cat(moments, dim=1), "d.moments_untiled_reference")


def tiling_of_d(golden: Golden) -> Tiling:
    """The authors' tiles of case d."""
    sides = golden.facts["config"]["cases"]["d"]["vae_tiles"]
    return published_tiling(8, 2, sides["encoder"], sides["decoder"])


@torch.no_grad()
def test_tiles_with_shared_norms_are_the_authors(golden, transformer, files):
    model = model_of(golden, transformer, files, "d")
    run = TiledRun(model, tiling_of_d(golden), True, model.multiple)
    lr = lr_of(golden, "d")
    values = {"lr": lr, NOISE: golden["inputs.d.noise"]} | model.constants()
    for name in ("encoder", "noise"):
        assert (run.shared_norms(name) is None) == (name == "noise")
    with running_in_tiles(*run.shared_norms("encoder")):
        golden.check(torch.cat(model.encoder.moments(enlarged(lr)), dim=1), "d.moments")
    values["latent"] = run.call("encoder", (lr, values[NOISE]))
    golden.check(values["latent"], "d.z")
    clean = run._restore(values)
    golden.check(clean / model.decoder.scaling_factor, "d.decoder_input")
    decoded = run.call("decoder", (clean,))
    golden.check(2 * decoded.clamp(0, 1) - 1, "d.decoded")
    check_bytes(to_bytes(decoded), golden, "d.final")


@torch.no_grad()
def test_a_model_runs_in_tiles_with_shared_norms(golden, transformer, files):
    model = published(files, transformer, golden, None, tiling_of_d(golden))
    lr = lr_of(golden, "d")
    run = TiledRun(model, model.tiling, True, model.multiple)
    values = {"lr": lr, "latent": run.call("encoder", (lr,))} | model.constants()
    expected = run.call("decoder", (run._restore(values),))
    assert torch.equal(torch.cat(list(model.image_rows(lr)), dim=-2), expected)
    model.tiling = replace(model.tiling, shared_norms=())
    assert (torch.cat(list(model.image_rows(lr)), dim=-2) - expected).abs().max() > 0.01


@torch.no_grad()
def test_each_tiles_velocity_of_the_large_image_is_the_authors(golden, transformer, files):
    model = model_of(golden, transformer, files, "d")
    found = model.denoiser(golden["outputs.d.tiles_in"], *model.text_encoder())
    golden.check(found, "d.tiles_v")


def test_what_has_no_group_norm_is_blended_and_what_is_quantised_refused():
    model = TSDSRSource(tiles="shared_norms").build()
    run = TiledRun(model, model.tiling, True, model.multiple)
    assert run.shared_norms("decoder")[1].margin == 11
    assert TiledRun(model, model.tiling, False, model.multiple).shared_norms("decoder") is None
    parse_pass({"pass": "encoder_swap"}, "test").convert(model)
    assert run.shared_norms("encoder") is None
    step = {"pass": "quantize", "components": ["decoder"], "placement": "full"}
    parse_pass(step, "test").convert(model)
    with pytest.raises(UserError, match="the operators of decoder are quantised"):
        run.shared_norms("decoder")


def test_the_process_is_its_factors():
    process = VelocityStep(0.5)
    latent, velocity = torch.randn(2, 1, 4, 4, 4)
    clean = process.clean_latent(latent, velocity)
    assert process.timestep == 500
    assert process.factors == {"latent": 1.0, "prediction": -0.5}
    assert torch.allclose(clean, latent - 0.5 * velocity)
    assert torch.allclose(process.prediction_for(latent, clean), velocity, atol=1e-6)


COUNTS = {
    "encoder": (34_274_208, 541_602_086_912, 558_781_956_096),
    "denoiser": (2_028_328_000, 917_959_213_056, 1_053_725_564_928),
    "decoder": (49_545_475, 1_240_306_024_448, 1_257_485_893_632),
}


def test_full_size_has_the_published_counts():
    found = measure(TSDSRSource(size="full").build()).components()
    for name, counts in COUNTS.items():
        part = found[name]
        assert (part.params, part.macs_paper, part.macs_full) == counts, name
    parts = [part for name, part in found.items() if name != "text_encoder"]
    assert sum(part.params for part in parts) == 2_112_147_683
    assert sum(part.macs_paper for part in parts) == 2_699_867_324_416
    assert sum(part.macs_full for part in parts) == 2_869_993_414_656


@pytest.mark.slow
def test_sd35_has_the_published_counts():
    found = measure(TSDSRSource(size="full", model="sd35").build()).component("denoiser")
    assert found.params == 2_243_171_520
    assert found.macs_full == 1_221_321_302_016


def test_a_drawn_latent_reads_noise():
    model = TSDSRSource(sample=True).build()
    assert model.wiring.call("encoder").inputs == ("lr", "posterior_noise")
    model = TSDSRSource().build()
    model.check_plain("a test")
    assert model.wiring.call("encoder").inputs == ("lr",)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "sd35"}, "model is of size 'full'"),
        ({"lora_alpha": 8.0}, "lora_alpha is of size 'full'"),
        ({"size": "full", "blocks": 4}, "blocks is of size 'nano'"),
        ({"size": "full", "heads": 4}, "heads is of size 'nano'"),
        ({"vae_channels": (12, 16, 16, 16)}, "multiples of 8"),
    ],
)
def test_configs_that_are_none(options, words):
    with pytest.raises(ValidationError, match=words):
        TSDSRSource(**options)


def test_files_that_are_not_named():
    for options, key in (
        ({"size": "full"}, "base"),
        ({"size": "full", "base": "x"}, "embeddings"),
    ):
        source = TSDSRSource(**options)
        with pytest.raises(UserError, match=rf"source\.{key}: TSD-SR needs"):
            source.load(source.build())
