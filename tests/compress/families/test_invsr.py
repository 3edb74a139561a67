"""InvSR: the authors' numbers from image to image, counts, configs, sources."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from support.constant_text import ConstantText
from support.given_noise import GivenNoise
from support.golden import Golden
from support.square_tiles import blended, profile, reflected, starts, to_multiple

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.families.invsr import DRAWN, InvSRSource, invsr_model
from compress.model.calls import Call
from compress.model.sr_model import SRModel
from compress.networks.latent_diffusion import SampledEncoder, UNetDenoiser, VAEDecoder
from compress.networks.noise_predictor import NoisePredictor, PredictorConfig
from compress.process.colour import wavelet, ycbcr

SIDES = ("a", "b", "e")  # one call each


@pytest.fixture(scope="module")
def golden(shared) -> Golden:
    return Golden(shared / "golden", "invsr_pipeline")


def predictor_config(config: dict) -> PredictorConfig:
    return PredictorConfig(
        channels=tuple(config["block_out_channels"]),
        layers=config["layers_per_block"][0],
        head_channels=config["attention_head_dim"],
        time_channels=config["temb_channels"],
        groups=config["norm_num_groups"],
    )


def published(golden: Golden, case: str) -> SRModel:
    """The authors' model for a case, with its noises."""
    facts = golden.facts["cases"][case]
    config = golden.facts["config"]
    listed = tuple(facts["timesteps"])
    predictor = NoisePredictor(predictor_config(config["predictor"]), float(listed[0] - 1))
    unet = UNet2DConditionModel.from_config(config["unet"])
    vae = AutoencoderKL.from_config(config["vae"])
    for network, prefix in ((predictor, "predictor."), (unet, "unet."), (vae, "vae.")):
        network.load_state_dict(golden.weights(prefix))
    contexts = [golden["inputs.prompt_embeds"], golden["inputs.negative_prompt_embeds"]]
    draws = [golden[f"inputs.{case}.noise_{of}"] for of in ("predictor", "vae")]
    networks = {
        "text_encoder": ConstantText(*contexts[: 1 if facts["cfg"] == 1 else 2]),
        "noise": GivenNoise(*draws),
        "noise_predictor": predictor,
        "encoder": SampledEncoder(vae),
        "denoiser": UNetDenoiser(unet, listed[0] - 1),
        "decoder": VAEDecoder(vae),
    }
    return invsr_model(networks, listed, facts["cfg"])


def tiles_of(image: torch.Tensor, pch: int) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """An image's tiles as a batch, and their places."""
    if image.shape[-2:] != (pch, pch):
        image = to_multiple(image)
    rows, columns = (starts(side, pch, pch // 2) for side in image.shape[-2:])
    places = [(top, left) for top in rows for left in columns]
    return torch.cat([image[..., t : t + pch, x : x + pch] for t, x in places]), places


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("case", ["a", "b", "c", "d", "e"])
def test_image_to_image_is_the_authors(golden, case):
    model = published(golden, case)
    facts = golden.facts["cases"][case]
    lr = golden[f"inputs.{case}.lr"]
    padded, pads = (lr, (0, 0, 0, 0)) if facts["kind"] == "pipe" else reflected(lr, facts["pch"])
    batch, places = (padded, [(0, 0)])
    if facts["kind"] != "pipe":
        batch, places = tiles_of(padded, facts["pch"])
    seen: dict[str, list[torch.Tensor]] = {}

    def watch(call: Call, inputs: tuple, outputs: tuple) -> None:
        seen.setdefault(call.component, []).append(outputs[0])
        seen.setdefault(f"{call.component}.state", []).append(inputs[0])

    values = model.given(batch)
    for call in model.wiring.before:
        found = model.values_before(call.component, values)
        values |= found
        inputs = tuple(values[name] for name in call.inputs)
        result = getattr(model, call.component)(*inputs)
        made = result if isinstance(result, tuple) else (result,)
        values |= dict(zip(call.outputs, made, strict=True))
    golden.check(values["start_noise"], f"{case}.predicted_noise")
    golden.check(values["latent"], f"{case}.z_lq")
    values["clean_latent"] = model.restore(values, watch)

    guided = facts["cfg"] != 1
    states = seen["denoiser.state"][:: 2 if guided else 1]
    for step, state in enumerate(states):
        expected = torch.cat([state, state]) if guided else state
        golden.check(expected, f"{case}.unet_input.{step}")
    golden.check(values["clean_latent"], f"{case}.latents.{len(states) - 1}")

    pieces = model.image_of(values)
    height, width = (4 * side for side in padded.shape[-2:])
    if facts["kind"] == "pipe":
        golden.check(2 * pieces - 1, f"{case}.decoded")
        golden.check(pieces.clamp(0, 1), f"{case}.sr")
        return
    if len(places) > 1:
        height, width = (4 * side for side in to_multiple(padded).shape[-2:])
    image = blended(
        list(pieces.clamp(0, 1).split(1)), [(4 * y, 4 * x) for y, x in places], height, width
    )
    left, _, top, _ = (4 * pad for pad in pads)
    height, width = 4 * lr.shape[-2], 4 * lr.shape[-1]
    image = image[..., top : top + height, left : left + width].float()
    if not facts["color"]:
        golden.check(image.clamp(0, 1), f"{case}.sr")
        return
    golden.check(image, f"{case}.sr_nofix")
    assert facts["color"] == "wavelet"
    # COMPAT_BUG: the padded input is squeezed to the size of the result.
    source = F.interpolate(
        to_multiple(padded), size=(height, width), mode="bicubic", antialias=True
    )
    golden.check(wavelet(image, source).clamp(0, 1), f"{case}.sr")
    if facts.get("also") == "ycbcr":
        golden.check(ycbcr(image, source).clamp(0, 1), f"{case}.sr_ycbcr")


def test_the_tests_tiles_are_the_authors(shared):
    tiles = Golden(shared / "golden", "invsr_tiles")
    for case, facts in tiles.facts["config"].items():
        pch, scale = facts["pch_size"], facts["sf"]
        rows, columns = (starts(facts[s], pch, facts["stride"]) for s in ("height", "width"))
        assert [[y, x] for y in rows for x in columns] == facts["starts"]
        weight = torch.outer(profile(pch * scale), profile(pch * scale))
        assert (weight - tiles[f"outputs.{case}.weight"]).abs().max() <= 1e-15
        pieces = list(tiles[f"inputs.{case}.patches"].split(facts["batch"]))
        places = [(scale * y, scale * x) for y, x in facts["starts"]]
        found = blended(pieces, places, scale * facts["height"], scale * facts["width"])
        assert (found - tiles[f"outputs.{case}.blended"]).abs().max() <= 1e-12


@torch.no_grad()
def test_corrections_on_floats_are_the_authors(shared):
    golden = Golden(shared / "golden", "invsr_tiles")
    image, lr = golden["inputs.f.sr"], golden["inputs.f.lr"]
    size = image.shape[-2:]
    source = F.interpolate(lr, size=size, mode="bicubic", antialias=True)
    limit = golden.facts["tolerance"]["colour_fix_max_abs"]
    assert (source - golden["outputs.f.lr_up"]).abs().max() <= limit
    assert (wavelet(image, source) - golden["outputs.f.wavelet"]).abs().max() <= limit
    # The authors clamp inside; here the end of the model does.
    fixed = ycbcr(image, source).clamp(0, 1)
    assert (fixed - golden["outputs.f.ycbcr"]).abs().max() <= limit


COUNTS = {
    "noise_predictor": (33_837_576, 183_070_883_840, 664_107_220_992),
    "encoder": (34_163_664, 541_149_364_224, 558_329_233_408),
    "denoiser": (865_910_724, 339_102_597_120, 402_128_732_160),
    "decoder": (49_490_199, 1_240_079_597_568, 1_257_259_466_752),
}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"steps": 3}, {"steps": 2, "guidance": 2.0}])
def test_full_size_has_the_published_counts(options):
    model = InvSRSource(size="full", **options).build()
    calls = options.get("steps", 1) * (2 if "guidance" in options else 1)
    found = measure(model).components()
    for name, (params, paper, full) in COUNTS.items():
        times = calls if name == "denoiser" else 1
        part = found[name]
        assert (part.params, part.macs_paper, part.macs_full) == (
            params,
            times * paper,
            times * full,
        )
    if calls == 1:
        without_text = [part for name, part in found.items() if name != "text_encoder"]
        assert sum(part.params for part in without_text) == 983_402_163
        assert sum(part.macs_paper for part in without_text) == 2_303_402_442_752
        assert sum(part.macs_full for part in without_text) == 2_881_824_653_312
        assert sum(part.params for part in found.values()) == 1_323_790_003


def test_sampling_draws_fixed_noise():
    model = InvSRSource(sample=True, steps=2).build()
    assert model.wiring.call("noise").outputs == DRAWN
    assert model.wiring.call("encoder").inputs == ("lr", DRAWN[1])
    assert InvSRSource(steps=2).build().noise is None


def test_the_embedded_nano_may_sample():
    """Its file holds no noise maps: they are drawn from their seed, no weights of a training."""
    source = InvSRSource(sample=True)
    model = source.build()
    source.load(model)
    maps = model.component("noise", "InvSR").maps
    assert maps.shape[0] == len(DRAWN)
    fresh = source.build().component("noise", "InvSR")
    fresh.reset_parameters()
    assert torch.equal(maps, fresh.maps)
    assert "noise.maps" in model.state_dict()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timesteps": (100, 200)}, "100, 200 do not descend"),
        ({"timesteps": ()}, "there are none"),
        ({"timesteps": (0,)}, "outside"),
        ({"guidance": 2.0}, "the nano has one prompt"),
        ({"size": "full", "latent_channels": 8}, "latent_channels is of size 'nano'"),
        ({"steps": 6}, "less than or equal to 5"),
    ],
)
def test_configs_that_are_none(options, words):
    with pytest.raises(ValueError, match=words):
        InvSRSource(**options)


@pytest.mark.parametrize(
    ("options", "key"),
    [({"size": "full"}, "base"), ({"size": "full", "base": "x"}, "predictor")],
)
def test_files_that_are_not_named(options, key):
    source = InvSRSource(**options)
    with pytest.raises(UserError, match=rf"source\.{key}: InvSR needs"):
        source.load(source.build())
