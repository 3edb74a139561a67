"""AddSR: the authors' numbers from bytes to bytes, counts, configs, sources."""

import numpy as np
import pytest
import torch
from bench.random_weights import randomise
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from support.call_by_call import watched
from support.constant_text import ConstantText
from support.given_noise import GivenNoise
from support.golden import Golden
from transformers import SwinConfig

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.families.addsr import AddSRSource, Networks, addsr_model
from compress.model.sr_model import SRModel
from compress.networks.control import control_parts
from compress.networks.image_prompt import PromptedControl, add_image_attention, prompted_names
from compress.networks.ldm_checkpoint import Part, load_parts
from compress.networks.visual_tokens import VisualTokens, token_tensors
from compress.process import epsilon_chains, one_step
from compress.process.colour import adain, wavelet
from compress.process.epsilon_chains import ADDSR_TIMESTEPS
from compress.process.self_refined import self_refined

FIXES = {"adain": adain, "wavelet": wavelet}
SWIN = ("patch_size", "embed_dim", "depths", "num_heads", "window_size")


@pytest.fixture(scope="module")
def golden(shared) -> Golden:
    return Golden(shared / "golden", "addsr_pipeline")


@pytest.fixture(scope="module")
def networks(golden) -> Networks:
    config = golden.facts["config"]
    unet = UNet2DConditionModel(**config["unet"])
    hint_channels = tuple(config["cond_embedding"])
    parts = control_parts(config["unet"], 4, conditioning_embedding_out_channels=hint_channels)
    control = PromptedControl(parts, ADDSR_TIMESTEPS[0])
    for name, network in (("unet", unet), ("controlnet", control)):
        add_image_attention(network)
        weights = golden.weights(f"{name}.")
        load_parts([Part("", network, prompted_names(network))], weights, name, "AddSR")
    vae = AutoencoderKL.from_config(config["vae"])
    vae.load_state_dict(golden.weights("vae."))
    swin = config["dape"]
    with torch.device("meta"):
        sizes = {key: swin[key] for key in SWIN}
        tokens = VisualTokens(SwinConfig(image_size=swin["img_size"], **sizes))
    weights = golden.weights("dape.")
    lora = {name: tensor for name, tensor in weights.items() if ".lora_" in name}
    base = {name: tensor for name, tensor in weights.items() if name not in lora}
    tokens.load_state_dict(token_tensors(tokens, base, lora, "golden"), assign=True)
    return Networks(unet, vae, control, tokens)


def published(golden: Golden, networks: Networks, case: str, steps: int = 4) -> SRModel:
    """The authors' model for a case, with its noises."""
    draws = ["start", *(f"step{step}" for step in range(1, steps)), "posterior"]
    timesteps = ADDSR_TIMESTEPS[:steps]
    weight = golden.facts["cases"][case]["psr_weight"]
    return addsr_model(
        {
            "text_encoder": ConstantText(golden[f"inputs.{case}.prompt_embeds"][:1]),
            "noise": GivenNoise(*(golden[f"inputs.{case}.noise_{draw}"] for draw in draws)),
        },
        networks,
        self_refined(timesteps),
        weight,
        posterior=True,
    )


def enlarged(picture: np.ndarray, least: int) -> np.ndarray:
    """The authors' enlarged image of LR bytes."""
    image = Image.fromarray(picture)
    short = min(image.size)
    if short < least // 4:
        factor = (least // 4) / short
        image = image.resize((int(factor * image.width), int(factor * image.height)))
    image = image.resize((image.width * 4, image.height * 4))
    return np.array(image.resize((image.width // 8 * 8, image.height // 8 * 8)))


def image_of(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def close(found: np.ndarray, expected: torch.Tensor) -> bool:
    apart = np.abs(found.astype(int) - expected.numpy().astype(int))
    return apart.max() <= 1 and (apart > 0).mean() <= 0.001


def pixels(image: torch.Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).numpy()


@torch.no_grad()
@pytest.mark.parametrize("case", ["a", "b"])
def test_bytes_to_bytes_is_the_authors(golden, networks, case):
    facts = golden.facts["cases"][case]
    lr = golden[f"inputs.{case}.lr_u8"].numpy()
    condition = image_of(enlarged(lr, facts["process_size"]))
    golden.check(condition, f"{case}.step0.controlnet_cond")
    model = published(golden, networks, case)
    values = model.values_before("denoiser", {"lr": image_of(lr), "condition": condition})
    golden.check(values["image_tokens"], f"{case}.step0.ram_embeds")
    values["clean_latent"], seen = watched(model, values)
    for step, (inputs, outputs) in enumerate(seen["denoiser"]):
        golden.check(inputs[0], f"{case}.step{step}.latent")
        golden.check(inputs[2][:1], f"{case}.step{step}.ram_embeds")
        golden.check(outputs[0], f"{case}.step{step}.eps")
    for step, (inputs, _) in enumerate(seen["hint"]):
        golden.check(inputs[0], f"{case}.step{step + 1}.controlnet_cond")
    golden.check(values["clean_latent"], f"{case}.step3.z0")
    image = model.image_of(values)
    before = np.round(pixels(image.clamp(0, 1)) * 255).astype(np.uint8)
    assert close(before, golden[f"outputs.{case}.before_fix_u8"])
    fixed = FIXES[facts["align"]](image_of(before), condition).clamp(0, 1)
    after = (pixels(fixed) * 255).astype(np.uint8)
    assert close(after, golden[f"outputs.{case}.after_fix_u8"])
    saved = np.array(Image.fromarray(after).resize((lr.shape[1] * 4, lr.shape[0] * 4)))
    assert close(saved, golden[f"outputs.{case}.png_u8"])


@torch.no_grad()
def test_one_step_is_the_authors_first(golden, networks):
    model = published(golden, networks, "a", steps=1)
    lr = golden["inputs.a.lr_u8"].numpy()
    condition = golden["outputs.a.step0.controlnet_cond"]
    values = model.values_before("denoiser", {"lr": image_of(lr), "condition": condition})
    values["clean_latent"], _ = watched(model, values)
    golden.check(values["clean_latent"], "a.step0.z0")


# Without tagger and text, and without the Swin: the sheet's one step.
ONE_STEP = (2_420_043_661_312, 2_633_110_241_280)
SWIN_COST = (100_082_122_752, 104_031_584_256)


def test_full_size_has_the_published_counts():
    found = measure(AddSRSource(size="full", steps=1).build()).components()
    assert found["denoiser"].params == 1_126_760_324
    assert found["control"].params + found["hint"].params == 489_031_440
    assert (found["tokens"].macs_paper, found["tokens"].macs_full) == SWIN_COST
    rest = [part for name, part in found.items() if name not in ("text_encoder", "tokens")]
    assert sum(part.macs_paper for part in rest) == ONE_STEP[0]
    assert sum(part.macs_full for part in rest) == ONE_STEP[1]


def test_later_steps_decode_and_look_again():
    one, three = (measure(AddSRSource(steps=steps).build()).components() for steps in (1, 3))
    for name in ("denoiser", "control", "decoder", "hint", "tokens"):
        assert three[name].macs_full == 3 * one[name].macs_full
    assert three["encoder"].macs_full == one["encoder"].macs_full


def test_the_chain_is_numbers_before_it_runs(monkeypatch):
    """torch.export follows what runs, and cannot read a number off a tensor."""
    model = randomise(AddSRSource(steps=2).build())

    def read_again(*_arguments: object) -> None:
        raise AssertionError("a table was read while the model ran")

    for name in ("alphas_cumprod", "renoised", "clean"):
        monkeypatch.setattr(epsilon_chains, name, read_again)
    monkeypatch.setattr(one_step, "alphas_cumprod", read_again)
    values = {"latent": torch.zeros(1, 4, 4, 4), "condition": torch.zeros(1, 3, 32, 32)}
    values |= {f"noise_{draw}": torch.zeros(1, 4, 4, 4) for draw in range(2)}

    class Steps:
        def __call__(self, state, timestep, **others):
            return state

        def call(self, component, *inputs):
            made = torch.zeros(1, 3, 32, 32)
            return (made, made) if component == "refine" else made

    assert torch.equal(model.run_process(values, Steps()), torch.zeros(1, 4, 4, 4))


def test_the_embedded_nano_serves_a_chain_of_any_length():
    """Its noise maps are drawn from their seed, so that a longer chain begins with the same."""
    maps = []
    for steps in (1, 2, 4):
        source = AddSRSource(steps=steps)
        model = source.build()
        source.load(model)
        maps.append(model.component("noise", "AddSR").maps)
    assert [len(some) for some in maps] == [1, 2, 4]
    torch.testing.assert_close(maps[2][:2], maps[1], atol=1e-3, rtol=1e-3)  # one is stored in fp16
    torch.testing.assert_close(maps[2][:1], maps[0], atol=1e-3, rtol=1e-3)


def test_files_that_are_not_named(monkeypatch, tmp_path):
    given = {"size": "full"}
    for key in ("base", "unet", "controlnet", "ram", "dape"):
        source = AddSRSource(**given)
        with pytest.raises(UserError, match=rf"source\.{key}: AddSR needs"):
            source.load(source.build())
        given[key] = "x"
    monkeypatch.setattr("compress.families.released.ASSETS", tmp_path)
    with pytest.raises(UserError, match=r"source\.weights: AddSR needs"):
        AddSRSource().load(AddSRSource().build())
