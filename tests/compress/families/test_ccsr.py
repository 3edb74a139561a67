"""CCSR 1 and 2: the authors' numbers from image to image, counts, configs, sources."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from support.call_by_call import check_states, run_before, watched
from support.constant_text import ConstantText
from support.given_noise import GivenNoise
from support.golden import Golden
from support.ldm_golden import ldm_networks

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.families.ccsr import CCSRSource
from compress.model.sr_model import SRModel
from compress.networks.control import AddedControl, ControlledDenoiser, control_parts, split_hint
from compress.networks.controlled import controlled_model
from compress.networks.latent_diffusion import ImageEncoder, VAEDecoder
from compress.process.colour import adain, wavelet
from compress.process.epsilon_chains import guided
from compress.process.tiling import gaussian_weights
from compress.process.truncated_chains import leading_chain, spaced_chain

FIXES = {"adain": adain, "wavelet": wavelet}


@pytest.fixture(scope="module")
def first(shared) -> Golden:
    return Golden(shared / "golden", "ccsr_v1")


@pytest.fixture(scope="module")
def second(shared) -> Golden:
    return Golden(shared / "golden", "ccsr_v2")


def model_one(golden: Golden, case: str) -> SRModel:
    """Version 1's model for a case, with its noises. It takes the enlarged image."""
    config, facts = golden.facts["config"], golden.facts["cases"][case]
    parts = ldm_networks(golden, config["network"], config["autoencoder"])
    hint, control = split_hint(parts.control)
    encoder = parts.encoder
    encoder.__class__ = ImageEncoder  # the same network, of an image that is enlarged already
    process = spaced_chain(facts["steps"], facts["t_max"], facts["t_min"])
    later = golden[f"inputs.{case}.noise_steps"]
    draws = [golden[f"inputs.{case}.x_T"], golden[f"inputs.{case}.noise_tau"], *later]
    networks = {
        "text_encoder": ConstantText(golden["inputs.context"]),
        "noise": GivenNoise(*draws[: len(process.inputs)]),
        "encoder": encoder,
        "hint": hint,
        "control": control,
        "denoiser": parts.denoiser,
        "decoder": parts.decoder,
    }
    return controlled_model(networks, process)


@torch.no_grad()
@pytest.mark.parametrize("case", ["a", "b"])
def test_version_1_is_the_authors(first, case):
    model = model_one(first, case)
    image = first[f"inputs.{case}.image"]
    values = run_before(model, model.given(image))
    values["clean_latent"], seen = watched(model, values)
    check_states(first, seen, case, "state")
    last = first.facts["cases"][case]["evaluations"] - 1
    first.check(values["clean_latent"], f"{case}.x0.{last}")
    fix = FIXES[first.facts["cases"][case]["color"]]
    first.check(fix(model.image_of(values), image), f"{case}.sr")


@torch.no_grad()
def test_version_1_in_tiles_is_the_authors(first):
    facts = first.facts["cases"]["c"]
    model = model_one(first, "c")
    image = first["inputs.c.image"]
    tile, stride = facts["tile"], facts["stride"]
    values = run_before(model, model.given(image))
    context = values["context"]
    places = squares(image.shape[-2:], tile, stride)
    weight = gaussian_weights(tile // 8, tile // 8)
    hints = {}
    for top, left in places:
        piece = image[..., top : top + tile, left : left + tile]
        hints[top, left] = model.hint(model.encoder(piece))

    def predict(state: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(state, dtype=torch.float64)
        weights = torch.zeros_like(total)
        for top, left in places:
            y, x, side = top // 8, left // 8, tile // 8
            here = state[..., y : y + side, x : x + side]
            local = {"hint": hints[top, left], "context": context}
            total[..., y : y + side, x : x + side] += weight * model.predict(local, here, timestep)
            weights[..., y : y + side, x : x + side] += weight
        return (total / weights).float()

    values["clean_latent"] = model.run_process(values, predict)
    first.check(values["clean_latent"], f"c.x0.{facts['evaluations'] - 1}")
    first.check(FIXES[facts["color"]](model.image_of(values), image), "c.sr")


def squares(size: tuple[int, ...], tile: int, stride: int) -> list[tuple[int, int]]:
    """The authors' tiles, the last of each axis moved back to the border."""
    rows, columns = (
        sorted({min(start, side - tile) for start in range(0, side, stride)}) for side in size
    )
    return [(top, left) for top in rows for left in columns]


def model_two(golden: Golden, shared, case: str) -> SRModel:
    """Version 2's model for a case, with its noises. It takes the enlarged image."""
    config, facts = golden.facts["config"], golden.facts["cases"][case]
    base = Golden(shared / "golden", golden.facts["weights_from"]["unet"].split()[0])
    unet = UNet2DConditionModel.from_config(base.facts["config"]["unet"])
    vae = AutoencoderKL.from_config(base.facts["config"]["vae"])
    unet.load_state_dict(base.weights("unet."))
    vae.load_state_dict(base.weights("vae."))
    channels = unet.config["in_channels"]
    whole = AddedControl(control_parts(config["controlnet"], channels), 999, channels=channels)
    whole.load_state_dict(golden.weights())
    hint, control = split_hint(whole)
    process = guided(
        leading_chain(facts["steps"], facts["t_max"], facts["t_min"], facts["start"]),
        facts["cfg"],
        first=1,
    )
    draws = [golden[f"inputs.{case}.noise_{of}"] for of in ("start", "tau")]
    if f"inputs.{case}.noise_step" in golden.tensors:
        draws += list(golden[f"inputs.{case}.noise_step"].split(1))
    count = sum(name.startswith("noise_") for name in process.inputs)
    # With guidance the authors sample twice: the first sample goes with the negative prompt.
    posterior = golden[f"inputs.{case}.noise_vae"][:1]
    contexts = [golden["inputs.prompt_embeds"]]
    contexts += [golden["inputs.negative_prompt_embeds"]] if facts["cfg"] != 1 else []
    networks = {
        "text_encoder": ConstantText(*contexts),
        "noise": GivenNoise(*draws[:count], posterior),
        "encoder": ImageEncoder(vae),
        "hint": hint,
        "control": control,
        "denoiser": ControlledDenoiser(unet, 999),
        "decoder": VAEDecoder(vae),
    }
    return controlled_model(networks, process, posterior=True)


def two_hints(
    model: SRModel, values: dict, second_noise: torch.Tensor, image: torch.Tensor
) -> None:
    """Let the guided steps see two samples of the input's latent, as the authors' do."""
    other = model.encoder(image, second_noise)
    values["negative_hint"], values["hint"] = values["hint"], model.hint(other)
    values["second_latent"] = other
    rows = []
    for row in model.process.rows:
        instead = dict(row.instead)
        if "context" in instead:
            instead["hint"] = "negative_hint"
        rows.append(replace(row, instead=instead))
    inputs = (*model.process.inputs, "negative_hint")
    model.process = replace(model.process, rows=tuple(rows), inputs=inputs)


@torch.no_grad()
@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_version_2_is_the_authors(second, shared, case):
    model = model_two(second, shared, case)
    image = second[f"inputs.{case}.image"]
    values = run_before(model, model.given(image))
    latents = [values["latent"]]
    if second.facts["cases"][case]["cfg"] != 1:
        two_hints(model, values, second[f"inputs.{case}.noise_vae"][1:], image)
        latents.append(values["second_latent"])
    second.check(torch.cat(latents), f"{case}.cond_latent")
    values["clean_latent"], seen = watched(model, values)
    facts = second.facts["cases"][case]
    states = [inputs[0] for inputs, _ in seen["denoiser"]]
    if facts["cfg"] != 1:  # two calls a step behind the first
        states = [states[0], *(torch.cat([x, x]) for x in states[1::2])]
    assert len(states) == facts["unet_calls"]
    for call, state in enumerate(states):
        second.check(state, f"{case}.unet_input.{call}")
    last = len(states) - 1
    is_clean = facts["steps"] == 1 or facts["t_min"] > 0  # the result is x0, else the last state
    second.check(values["clean_latent"], f"{case}.{'x0' if is_clean else 'latents'}.{last}")
    second.check(model.image_of(values).clamp(0, 1), f"{case}.sr")


@torch.no_grad()
def test_version_2_in_tiles_is_the_authors(second, shared):
    facts = second.facts["cases"]["d"]
    model = model_two(second, shared, "d")
    image = second["inputs.d.image"]
    values = run_before(model, model.given(image))
    side, stride = facts["tile"] // 8, facts["stride"] // 8
    weight = gaussian_weights(side, side)
    places = squares(values["latent"].shape[-2:], side, stride)

    def predict(state: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(state, dtype=torch.float64)
        weights = torch.zeros_like(total)
        for top, left in places:
            window = (..., slice(top, top + side), slice(left, left + side))
            local = {"hint": model.hint(values["latent"][window]), "context": values["context"]}
            total[window] += weight * model.predict(local, state[window])
            weights[window] += weight
        return (total / weights).float()

    values["clean_latent"] = model.run_process(values, predict)
    second.check(values["clean_latent"], "d.x0.0")
    second.check(model.image_of(values).clamp(0, 1), "d.sr")


def enlarged(picture: np.ndarray, least: int) -> np.ndarray:
    """The authors' control image of LR bytes: PIL's bicubic x4, on to multiples of 8."""
    image = Image.fromarray(picture)
    short = min(image.size)
    if short < least // 4:
        factor = (least // 4) / short
        image = image.resize((round(factor * image.width), round(factor * image.height)))
    image = image.resize((image.width * 4, image.height * 4))
    return np.array(image.resize((image.width // 8 * 8, image.height // 8 * 8)))


def close(found: np.ndarray, expected: torch.Tensor) -> bool:
    """Within one level on half a percent of the values, as the golden allows."""
    apart = np.abs(found.astype(int) - expected.numpy().astype(int))
    return apart.max() <= 1 and (apart > 0).mean() <= 0.005


@torch.no_grad()
@pytest.mark.parametrize("case", ["e", "f"])
def test_version_2_from_bytes_to_bytes_is_the_authors(second, shared, case):
    facts = second.facts["cases"][case]
    lr = second[f"inputs.{case}.lr"].numpy()
    control = enlarged(lr, facts["process_size"])
    assert np.array_equal(control, second[f"outputs.{case}.control"].numpy())
    image = torch.from_numpy(control).permute(2, 0, 1)[None].float() / 255
    model = model_two(second, shared, case)
    values = run_before(model, model.given(image))
    values["clean_latent"], _ = watched(model, values)
    second.check(values["clean_latent"], f"{case}.x0.0")
    result = model.image_of(values).clamp(0, 1)
    pixels = (result[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    assert close(pixels, second[f"outputs.{case}.pred"])
    rounded = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    for name, fix in FIXES.items():
        fixed = fix(rounded, image).clamp(0, 1)
        found = (fixed[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()
        assert close(found, second[f"outputs.{case}.{name}"])
        if name == "adain":
            size = (lr.shape[1] * 4, lr.shape[0] * 4)
            saved = np.array(Image.fromarray(found).resize(size))
            assert close(saved, second[f"outputs.{case}.sr"])


ENCODER = (34_163_664, 541_149_364_224, 558_329_233_408)
HINT = 47_185_920  # MACs of the part of the control network that runs once here


def sums(parts: list, name: str) -> int:
    return sum(getattr(part, name) for part in parts)


@pytest.mark.parametrize(
    ("options", "params", "calls", "paper", "full"),
    [
        ({}, 1_312_718_187, 1, 2_229_666_496_512, 2_352_276_684_800),
        # With guidance the authors encode twice, and compute the hint at each of 3 calls.
        (
            {},
            1_312_718_187,
            3,
            3_667_690_930_176 - ENCODER[1] - 2 * HINT,
            3_983_981_887_488 - ENCODER[2] - 2 * HINT,
        ),
        # And at each of version 1's 16 calls.
        (
            {"version": 1, "steps": 3},
            1_312_717_867,
            16,
            8_956_229_517_312 - 15 * HINT,
            10_402_596_454_400 - 15 * HINT,
        ),
    ],
)
def test_full_size_has_the_published_counts(options, params, calls, paper, full):
    source = CCSRSource(size="full", **options)
    found = measure(source.build()).components()
    once = [p for name, p in found.items() if name not in ("text_encoder", "control", "denoiser")]
    steps = [found["control"], found["denoiser"]]
    counted = source.process().steps
    assert sums(once, "params") + sums(steps, "params") == params
    for name, expected in (("macs_paper", paper), ("macs_full", full)):
        assert sums(once, name) + sums(steps, name) // counted * calls == expected


def test_guidance_is_three_calls_in_two_steps():
    source = CCSRSource(size="full", steps=6, t_min=0.5, guidance=4.5)
    rows = source.process().rows
    assert [row.timestep for row in rows] == [999, 499, 499]
    assert [dict(row.instead) for row in rows] == [
        {"context": "negative_context"},
        {"context": "negative_context"},
        {},
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"version": 1, "t_min": 0.0}, "no step after the jump"),
        ({"steps": 6, "t_max": 0.1, "t_min": 0.5}, "no step after the jump"),
        ({"guidance": 2.0}, "guidance is for size 'full' of version 2"),
        ({"version": 1, "sample": True}, "sample is for version 2"),
    ],
)
def test_configs_that_are_none(options, words):
    with pytest.raises(ValueError, match=words):
        CCSRSource(**options)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"version": 1}, "weights"),
        ({"size": "full", "version": 1}, "checkpoint"),
        ({"size": "full"}, "base"),
        ({"size": "full", "base": "x"}, "controlnet"),
        ({"size": "full", "base": "x", "controlnet": "y"}, "vae"),
    ],
)
def test_files_that_are_not_named(options, key):
    source = CCSRSource(**options)
    with pytest.raises(UserError, match=rf"source\.{key}: CCSR needs"):
        source.load(source.build())
