"""Control networks on latents: the authors' numbers, published names and counts, hints, ONNX."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from support.golden import Golden, manifest, recorded
from support.ldm_golden import ldm_networks
from support.onnx_parity import check_onnx
from torch import nn

from compress.core.errors import UserError
from compress.cost.count import measure_module
from compress.networks.control import (
    AddedControl,
    ControlledDenoiser,
    ControlNetwork,
    JoinedControl,
    control_parts,
    split_hint,
)
from compress.networks.control_file import load_control
from compress.networks.control_start import start_from_unet
from compress.networks.latent_diffusion import ImageEncoder, SampledEncoder
from compress.networks.sd21 import SD21_UNET
from compress.process.resample import upsample

T = 999
BLOCKS = {  # of DoSSR's golden, in latent-diffusion's names
    "input_blocks.0": "conv_in",
    "input_blocks.1.0": "down_blocks.0.resnets.0",
    "input_blocks.1.1": "down_blocks.0.attentions.0",
    "input_blocks.1.1.transformer_blocks.0": "down_blocks.0.attentions.0.transformer_blocks.0",
    "middle_block": "mid_block",
    "output_blocks.0": "up_blocks.0.resnets.0",
    "output_blocks.7": "up_blocks.3.attentions.1",
}
NANO = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": (1, 2),
    "use_linear_projection": True,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}


def randomised(network: nn.Module) -> nn.Module:
    """Zero convolutions hide all else."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def nano() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "denoiser": randomised(ControlledDenoiser(UNet2DConditionModel(**NANO), T)),
        "added": randomised(AddedControl(control_parts(NANO, 4), T)),
        "joined": randomised(JoinedControl(control_parts(NANO, 8), T)),
    }


@torch.no_grad()
def test_ccsr_v2_is_the_authors(shared):
    golden = Golden(shared / "golden", "ccsr_v2")
    config = golden.facts["config"]["controlnet"]
    control = AddedControl(control_parts(config, config["in_channels"]), T).eval()
    control.load_state_dict(golden.weights())
    others = Golden(shared / "golden", "invsr_pipeline")  # has the UNet
    unet = UNet2DConditionModel(**others.facts["config"]["unet"]).eval()
    unet.load_state_dict(others.weights("unet."))
    context = torch.cat([golden["inputs.negative_prompt_embeds"], golden["inputs.prompt_embeds"]])
    x, condition, t = (golden[f"inputs.control.{name}"] for name in ("x", "cond_latent", "t"))
    *skips, middle = control(x, condition, context, t)
    assert len(skips) == 12
    for i, residual in enumerate(skips):
        golden.check(residual, f"control.down.{i}")
    golden.check(middle, "control.mid")
    eps = ControlledDenoiser(unet, T)(x, context, *skips, middle, t)
    golden.check(eps, "control.eps")


@torch.no_grad()
def test_a_sampled_condition_latent_is_the_authors(shared):
    golden = Golden(shared / "golden", "ccsr_v2")
    others = Golden(shared / "golden", "invsr_pipeline")  # has the autoencoder
    vae = AutoencoderKL(**others.facts["config"]["vae"]).eval()
    vae.load_state_dict(others.weights("vae."))
    encoder = ImageEncoder(vae)
    for case in "acd":
        image, noise = golden[f"inputs.{case}.image"], golden[f"inputs.{case}.noise_vae"]
        found = encoder(image, noise)
        height, width = golden[f"outputs.{case}.cond_latent"].shape[-2:]  # the first tile of d
        golden.check(found[..., :height, :width], f"{case}.cond_latent")
        assert torch.equal(encoder(image), encoder.encode(2 * image - 1))
        small = image[:, :, ::4, ::4]
        sampled = SampledEncoder(vae)(small, noise)
        assert torch.equal(sampled, encoder(upsample(small), noise))


@torch.no_grad()
def test_ccsr_v1_is_the_authors(shared):
    golden = Golden(shared / "golden", "ccsr_v1")
    config = golden.facts["config"]
    networks = ldm_networks(golden, config["network"], config["autoencoder"])
    context, t = golden["inputs.context"], golden["inputs.blocks.t"]
    x, image = golden["inputs.blocks.x"], golden["inputs.blocks.image"]
    condition = networks.encoder.encode(2 * image - 1)
    golden.check(condition, "blocks.cond_latent")
    residuals = networks.control(x, condition, context, t)
    assert len(residuals) == 13
    for i, residual in enumerate(residuals):
        golden.check(residual, f"blocks.control.{i}")
    golden.check(networks.denoiser(x, context, *residuals, t), "blocks.eps")
    golden.check(
        networks.denoiser(x, context, *(0 * r for r in residuals), t), "blocks.eps_without_control"
    )
    golden.check(2 * networks.decoder(condition) - 1, "blocks.decoded")


@torch.no_grad()
def test_dossr_is_the_authors(shared):
    golden = Golden(shared / "golden", "dossr_pipeline")
    config = golden.facts["config"]
    networks = ldm_networks(
        golden,
        config["unet_config"]["params"],
        config["first_stage_config"]["params"]["ddconfig"],
    )
    for case, facts in golden.facts["cases"].items():
        context = golden[f"inputs.{case}.context"]
        pre = golden[f"outputs.{case}.preprocess"].clamp(0, 1)
        condition = networks.encoder.encode(2 * pre - 1)
        golden.check(condition, f"{case}.c_latent")
        for step, timestep in enumerate(facts["timesteps"]):
            x, t = golden[f"outputs.{case}.step{step}.x"], torch.tensor([timestep])
            residuals = networks.control(x, condition, context, t)
            eps = networks.denoiser(x, context, *residuals, t)
            golden.check(eps, f"{case}.step{step}.eps")
            if step == 0:
                for i, residual in enumerate(residuals):
                    golden.check(residual, f"{case}.step0.control{i}")
                inputs = (x, context, *residuals, t)
                check_blocks(golden, f"{case}.step0.block.", networks.denoiser, inputs)
        decoded = 2 * networks.decoder(golden[f"outputs.{case}.latent_final"]) - 1
        golden.check(decoded, f"{case}.decoded")


def check_blocks(golden: Golden, prefix: str, denoiser: nn.Module, inputs: tuple) -> None:
    """Check what blocks of the UNet put out."""
    assert golden.under(f"outputs.{prefix}").keys() == BLOCKS.keys()
    seen = recorded(denoiser.unet, list(BLOCKS.values()), lambda: denoiser(*inputs))
    for name, own in BLOCKS.items():
        golden.check(seen[own], prefix + name)


@pytest.mark.parametrize(
    ("form", "channels", "params"),
    [(AddedControl, 4, 363_153_600), (JoinedControl, 8, 363_153_280)],
)
def test_counts_are_the_published(form, channels, params):
    with torch.device("meta"):
        control = form(control_parts(SD21_UNET, channels), T)
        latent, context = torch.empty(1, 4, 64, 64), torch.empty(1, 77, 1024)
    cost = measure_module(control, latent, latent, context, name="control")
    assert cost.params == params
    assert cost.macs_paper == 109_334_937_600
    assert cost.macs_full == 134_559_252_480
    assert sum(row.macs_conv for row in cost.layers) == 55_983_472_640


def test_a_controlled_unet_counts_as_the_unet():
    with torch.device("meta"):
        control = AddedControl(control_parts(SD21_UNET, 4), T)
        denoiser = ControlledDenoiser(UNet2DConditionModel(**SD21_UNET), T)
        latent, context = torch.empty(1, 4, 64, 64), torch.empty(1, 77, 1024)
        residuals = control(latent, latent, context)
    assert len(residuals) == 13 == len(denoiser.ratios())
    for residual, ratio in zip(residuals, denoiser.ratios().values(), strict=True):
        assert residual.shape[-2:] == (128 * ratio, 128 * ratio)
    cost = measure_module(denoiser, latent, context, *residuals, name="denoiser")
    assert (cost.params, cost.macs_paper) == (865_910_724, 339_102_597_120)
    assert cost.macs_full == 402_128_732_160


def test_ccsr_v2_names_are_the_published(shared):
    with torch.device("meta"):
        control = AddedControl(control_parts(SD21_UNET, 4), T)
    facts = manifest(shared, "ccsr_v2_controlnet")
    assert {n: list(t.shape) for n, t in control.state_dict().items()} == facts["tensors"]


def inputs(form: str = "added") -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    latent, condition = torch.randn(2, 1, 4, 8, 12, generator=generator)
    return latent, condition, torch.randn(1, 7, 12, generator=generator)


@torch.no_grad()
@pytest.mark.parametrize("form", ["added", "joined"])
def test_a_split_hint_changes_nothing(nano, form):
    latent, condition, context = inputs()
    hint, hinted = split_hint(nano[form])
    found = hinted(latent, hint(condition), context)
    expected = nano[form](latent, condition, context)
    assert type(hinted) is (ControlNetwork if form == "joined" else AddedControl)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(TypeError, match="takes a hint already"):
        split_hint(hinted)


@torch.no_grad()
@pytest.mark.parametrize("form", ["added", "joined"])
def test_timestep_and_context_are_the_own_or_given(nano, form):
    latent, condition, context = inputs()
    control = nano[form]
    own = control(latent, condition, context)
    given = control(latent, condition, context, torch.tensor([T]))
    other = control(latent, condition, context, torch.tensor([5]))
    assert all(torch.equal(a, b) for a, b in zip(own, given, strict=True))
    assert not torch.equal(own[-1], other[-1])
    control.context = nn.Parameter(context)
    assert torch.equal(control(latent, condition)[-1], own[-1])
    control.context = None


@torch.no_grad()
@pytest.mark.parametrize(("form", "channels"), [(AddedControl, 4), (JoinedControl, 8)])
def test_a_training_starts_as_the_unet_and_adds_nothing(nano, form, channels):
    latent, condition, context = inputs()
    unet = nano["denoiser"].unet
    control = randomised(form(control_parts(NANO, channels), T))
    start_from_unet(control, unet)
    residuals = control(latent, condition, context)
    assert all(not residual.any() for residual in residuals)
    middle = []
    for network in (control, unet):
        network.mid_block.register_forward_hook(lambda _m, _i, out: middle.append(out))
    control(latent, condition, context)
    unet(latent, T, context)
    torch.testing.assert_close(middle[0], middle[1])


def test_a_unet_of_other_widths_starts_no_training(nano):
    control = AddedControl(control_parts(NANO | {"block_out_channels": (8, 8)}, 4), T)
    with pytest.raises(UserError, match="its down_blocks has other layers than the UNet's"):
        start_from_unet(control, nano["denoiser"].unet)


class Step(nn.Module):
    """Control network and UNet as one graph."""

    def __init__(self, control: nn.Module, denoiser: nn.Module):
        super().__init__()
        self.control = control
        self.denoiser = denoiser

    def forward(self, latent, condition, context, timestep):
        residuals = self.control(latent, condition, context, timestep)
        return self.denoiser(latent, context, *residuals, timestep)


@pytest.mark.slow
def test_onnx_computes_the_same(nano):
    step = Step(nano["added"], nano["denoiser"]).eval()
    check_onnx(step, *inputs(), torch.tensor([500]))


def test_a_file_is_read_without_what_it_does_not_need(tmp_path, nano):
    state = nano["added"].state_dict()
    save_file(
        {**state, "controlnet_cond_embedding.conv_in.bias": torch.ones(2)},
        tmp_path / "c.safetensors",
    )
    with torch.device("meta"):
        control = AddedControl(control_parts(NANO, 4), T)
    load_control(control, str(tmp_path / "c.safetensors"))
    assert all(torch.equal(t, state[n]) for n, t in control.state_dict().items())


def test_what_differs_in_a_wrong_file_is_named(tmp_path, nano):
    save_file(nano["joined"].state_dict(), tmp_path / "c.safetensors")
    with pytest.raises(UserError) as caught:
        load_control(nano["added"], str(tmp_path / "c.safetensors"))
    message = str(caught.value)
    assert "2 missing: condition_conv_in.bias, condition_conv_in.weight" in message
    assert "conv_in.weight (8, 8, 3, 3) instead of (8, 4, 3, 3)" in message
