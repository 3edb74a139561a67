"""DoSSR: the authors' numbers from image to image, counts, configs, sources."""

import pytest
import torch
from pydantic import ValidationError
from support.call_by_call import run_before, watched
from support.constant_text import ConstantText
from support.given_noise import GivenNoise
from support.golden import Golden
from support.ldm_golden import ldm_networks, vae_of
from support.tiny_families import tiny_family
from torch import nn

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.families.dossr import DoSSRSource
from compress.model.sr_model import SRModel, Tiling
from compress.model.tiled_run import TiledRun
from compress.networks.control import split_hint
from compress.networks.controlled import controlled_model
from compress.networks.latent_diffusion import ImageEncoder
from compress.networks.ldm_checkpoint import Part, load_parts
from compress.networks.ldm_names import vae_names
from compress.networks.recolouring import Recoloured
from compress.networks.rrdbnet import RRDBConfig, RRDBNet
from compress.process.colour import adain, wavelet
from compress.process.shift_solver import shift_solver

FIXES = {"adain": adain, "wavelet": wavelet}


@pytest.fixture(scope="module")
def golden(shared) -> Golden:
    return Golden(shared / "golden", "dossr_pipeline")


def published(golden: Golden, case: str, **further: nn.Module) -> SRModel:
    """The authors' model for a case, with its noises."""
    config, facts = golden.facts["config"], golden.facts["cases"][case]
    vae_facts = config["first_stage_config"]["params"]["ddconfig"]
    parts = ldm_networks(golden, config["unet_config"]["params"], vae_facts)
    hint, control = split_hint(parts.control)
    condition = parts.encoder
    condition.__class__ = ImageEncoder  # the same network, of an image that is enlarged already
    encoder = ImageEncoder(vae_of(vae_facts)).eval()
    prefix = "first_stage_model."
    state = {n: t for n, t in golden.weights().items() if n.startswith(prefix)}
    unused = (f"{prefix}decoder.", f"{prefix}post_quant_conv.")
    load_parts([Part(prefix, encoder, vae_names(encoder))], state, "golden", "golden", unused)
    sizes = config["preprocess_config"]["params"]
    preprocessor = RRDBNet(
        RRDBConfig(sizes["num_feat"], sizes["num_block"], sizes["num_grow_ch"])
    ).eval()
    preprocessor.load_state_dict(golden.weights("preprocess_model."))
    draws = ["start", *(f"step{step}" for step in range(facts["steps"])), "posterior"]
    networks = {
        "text_encoder": ConstantText(golden[f"inputs.{case}.context"]),
        "noise": GivenNoise(*(golden[f"inputs.{case}.noise_{draw}"] for draw in draws)),
        "preprocessor": preprocessor,
        "condition_encoder": condition,
        "encoder": encoder,
        "hint": hint,
        "control": control,
        "denoiser": parts.denoiser,
        "decoder": parts.decoder,
        **further,
    }
    process = shift_solver(facts["steps"], facts["order"])
    return controlled_model(networks, process, posterior=True, colour_fix="wavelet")


@torch.no_grad()
@pytest.mark.parametrize("case", ["a", "b"])
def test_image_to_image_is_the_authors(golden, case):
    facts = golden.facts["cases"][case]
    model = published(golden, case)
    pixels = golden[f"inputs.{case}.lr_u8"]
    lr = pixels.permute(2, 0, 1)[None].float() / 255
    values = run_before(model, model.given(lr))
    golden.check(values["condition"], f"{case}.c_latent")
    values["clean_latent"], seen = watched(model, values)
    assert len(seen["denoiser"]) == facts["steps"]
    for step, (inputs, outputs) in enumerate(seen["denoiser"]):
        golden.check(inputs[0], f"{case}.step{step}.x")
        golden.check(outputs[0], f"{case}.step{step}.eps")
    for number, residual in enumerate(seen["control"][0][1]):
        golden.check(residual, f"{case}.step0.control{number}")
    golden.check(values["clean_latent"], f"{case}.latent_final")
    image = model.image_of(values)
    golden.check(2 * image - 1, f"{case}.decoded")
    fixed = FIXES[facts["color_fix"]](image, values["clear_image"])
    golden.check(fixed, f"{case}.sr")
    saved = (fixed.clamp(0, 1)[0].permute(1, 2, 0) * 255).to(torch.uint8)
    apart = (saved.int() - golden[f"outputs.{case}.png_u8"].int()).abs()
    assert apart.max() <= 2
    assert (apart > 0).double().mean() <= 0.001


@torch.no_grad()
def test_the_preprocessors_image_corrects_as_published(golden):
    cases = golden.facts["cases"]
    case = next(name for name in cases if cases[name]["color_fix"] == "wavelet")
    model = published(golden, case, colour=Recoloured())
    lr = golden[f"inputs.{case}.lr_u8"].permute(2, 0, 1)[None].float() / 255
    golden.check(model.network(lr), f"{case}.sr")


@torch.no_grad()
def test_tiles_are_corrected_as_the_whole():
    torch.manual_seed(0)
    model = controlled_model(
        {**dict(tiny_family("dossr").components()), "colour": Recoloured()}, shift_solver(1, 1)
    )
    model.colour_fix = "none"
    model.tiling = Tiling(tile=16, overlap=8)
    image, clear = torch.rand(1, 3, 256, 384), torch.rand(1, 3, 256, 384)
    run = TiledRun(model, model.tiling, True, model.multiple)
    values = {"decoded_image": image, "clear_image": clear}
    call = model.wiring.call("colour")
    strips = run._strips(call, values, ["decoded_image", "clear_image"], run.cut(4.0), "image")
    found = torch.cat([strip.clone() for strip in strips], dim=-2)
    assert (found - wavelet(image, clear)).abs().max() < 0.01


def test_the_reference_needs_the_correction_that_tiles_cover():
    model = DoSSRSource(colour_reference="preprocessor").build()
    assert model.colour_fix == "none"
    assert [name for name, _ in model.components()][-1] == "colour"
    with pytest.raises(ValidationError, match="is for colour_fix 'wavelet'"):
        DoSSRSource(colour_reference="preprocessor", colour_fix="adain")


ENCODER = (541_149_364_224, 558_329_233_408)
HINT = 47_185_920  # MACs of the part of the control network that runs once here


SUMS = {  # steps -> products of convolutions and linear layers, and of all
    1: (3_064_529_338_368, 3_204_319_395_840),
    5: (4_858_279_477_248, 5_351_071_334_400),
    10: (7_100_467_150_848, 8_034_511_257_600),
}


def test_full_size_has_the_published_counts():
    found = measure(DoSSRSource(size="full", steps=1).build()).components()
    assert found["preprocessor"].params == 16_697_987
    assert found["condition_encoder"].macs_paper == ENCODER[0]
    # 23 of the 24 layers of the text encoder are there.
    layer_24_and_projection = 354_032_641 - 340_387_840
    total = sum(part.params for part in found.values()) + layer_24_and_projection
    assert total == 1_717_612_159
    of_step = [found["control"], found["denoiser"]]
    once = [part for name, part in found.items() if name != "text_encoder"]
    for steps, (paper, full) in SUMS.items():
        more = steps - 1
        assert sum(p.macs_paper for p in once) + more * sum(p.macs_paper for p in of_step) == (
            paper - more * HINT
        )
        assert sum(p.macs_full for p in once) + more * sum(p.macs_full for p in of_step) == (
            full - more * HINT
        )


def test_cost_counts_every_step():
    one, three = (measure(DoSSRSource(steps=steps).build()).components() for steps in (1, 3))
    for name, part in one.items():
        times = 3 if name in ("control", "denoiser") else 1
        assert three[name].macs_full == times * part.macs_full, name


def test_the_nano_is_a_small_model_of_the_same_parts():
    nano, full = (DoSSRSource(size=size).build() for size in ("nano", "full"))
    names = [name for name, _ in nano.components()]
    assert ["text_encoder", *names] == [name for name, _ in full.components()]
    assert measure(nano).params < 8e6


def test_files_that_are_not_named(monkeypatch, tmp_path):
    monkeypatch.setattr("compress.families.released.ASSETS", tmp_path)
    for options, key in (({}, "weights"), ({"size": "full"}, "checkpoint")):
        source = DoSSRSource(**options)
        with pytest.raises(UserError, match=rf"source\.{key}: DoSSR needs"):
            source.load(source.build())
