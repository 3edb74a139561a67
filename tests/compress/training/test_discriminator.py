"""Discriminators made of a UNet: what trains, how much of it, and what they judge."""

import copy

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from compress.core.errors import UserError
from compress.cost.count import measure_module
from compress.families.osediff import OSEDiffSource
from compress.networks.latent_diffusion import UNetDenoiser
from compress.passes.strip import Strip
from compress.process.one_step import alphas_cumprod
from compress.training import losses
from compress.training.discriminator import (
    NoiseAwareDiscriminator,
    UNetDiscriminator,
    keep_trunk,
    widen_input,
)
from compress.training.lora import lora_modules

LATENT = OSEDiffSource().latent_channels


@pytest.fixture(autouse=True)
def seed():
    """LoRA starts from random numbers."""
    torch.manual_seed(0)


def count(parameters) -> int:
    return sum(p.numel() for p in parameters)


def stripped(model, **keys):
    model = copy.deepcopy(model)
    Strip(**keys).convert(model)
    return model


@pytest.fixture(scope="module")
def sd21():
    """Structure and prompt of SD 2.1, on meta."""
    return OSEDiffSource(size="sd21").build().denoiser, torch.empty(1, 77, 1024, device="meta")


@pytest.mark.slow
def test_adcsr_counts_at_sd21(sd21):
    denoiser, context = sd21
    judge = UNetDiscriminator(denoiser, 256, context)
    assert (
        len(lora_modules(denoiser.unet))
        == 258
        == sum(isinstance(m, LoraLayer) for m in judge.modules())
    )
    base = judge.unet.conv_in.base_layer
    lora = [p for name, p in judge.named_parameters() if ".lora_" in name]
    assert count(base.parameters()) == 737_600
    assert count(lora) == 4_064_784
    assert count(judge.trainable_parameters()) == 4_802_384
    assert {m.scaling["default"] for m in judge.modules() if isinstance(m, LoraLayer)} == {
        2.0
    }  # alpha 8, rank 4
    assert {id(p) for p in judge.parameters() if p.requires_grad} == {
        id(p) for p in judge.trainable_parameters()
    }
    assert judge(torch.empty(2, 256, 64, 64, device="meta")).shape == (2, 4, 64, 64)
    assert denoiser.unet.conv_in.in_channels == 4
    assert type(denoiser.unet.conv_in) is nn.Conv2d


def test_noise_aware_counts_at_sd21(sd21):
    judge = NoiseAwareDiscriminator(*sd21, alphas_cumprod())
    kept = [
        n
        for n in lora_modules(sd21[0].unet)
        if n.split(".")[0] in ("conv_in", "down_blocks", "mid_block")
    ]
    assert len(kept) == 110 == sum(isinstance(m, LoraLayer) for m in judge.modules())
    head = 1281 * 320 + 321
    assert count(judge.trainable_parameters()) == 6_522_432 + head
    scales = {m.scaling["default"] for m in judge.modules() if isinstance(m, LoraLayer)}
    assert scales == {1.0}  # alpha 16, rank 16
    assert not any(".up_blocks" in n or ".conv_out" in n for n, _ in judge.named_parameters())


def test_the_trunk_counts_as_published(sd21):
    unet = copy.deepcopy(sd21[0].unet)
    keep_trunk(unet)
    denoiser = UNetDenoiser(unet, 999)
    cost = measure_module(denoiser, torch.empty(1, 4, 64, 64), sd21[1], name="trunk")
    assert cost.params == 351_662_080
    assert round(cost.macs_paper / 1e9, 2) == 105.72
    assert round(cost.macs_full / 1e9, 2) == 130.95


@pytest.mark.parametrize(("rank", "alpha", "factor"), [(16, 16, 1), (4, 8, 2), (16, 8, 0.5)])
def test_lora_counts_alpha_by_rank(random_nano, rank, alpha, factor):
    judge = UNetDiscriminator(random_nano.denoiser, 8, None, rank, alpha)
    scales = {m.scaling["default"] for m in judge.modules() if isinstance(m, LoraLayer)}
    assert scales == {factor}


@torch.no_grad()
def test_pairs_share_the_timestep_and_not_the_noise(random_nano):
    judge = NoiseAwareDiscriminator(random_nano.denoiser, None, alphas_cumprod())
    seen = []
    judge.unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    steps = judge.draw(64, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    for _ in range(2):  # of the same latents
        judge(torch.zeros(64, LATENT, 8, 8), generator, steps)
    assert steps.min() < 100
    assert steps.max() > 900
    assert torch.equal(seen[0][1], seen[1][1])
    assert torch.equal(seen[0][1], steps)
    assert not torch.equal(seen[0][0], seen[1][0])


@torch.no_grad()
def test_widened_input_by_hand():
    conv = nn.Conv2d(4, 2, 3, padding=1)
    wide = widen_input(conv, 6)  # inputs 0 and 1 twice, 2 and 3 once
    torch.testing.assert_close(wide.weight[:, 0], conv.weight[:, 0] / 2)
    torch.testing.assert_close(wide.weight[:, 5], conv.weight[:, 1] / 2)
    torch.testing.assert_close(wide.weight[:, 3], conv.weight[:, 3])
    x = torch.randn(1, 4, 5, 5)
    for channels in (4, 6, 256):
        repeated = x[:, torch.arange(channels) % 4]
        torch.testing.assert_close(
            widen_input(conv, channels)(repeated), conv(x), rtol=1e-4, atol=1e-5
        )
    assert torch.equal(widen_input(conv, 3).weight, conv.weight[:, :3])


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("strip", [None, {}, {"text": "keep"}, {"timestep": "keep"}])
def test_starts_as_the_source_at_its_timestep_and_prompt(random_nano, strip):
    latent = torch.randn(2, LATENT, 16, 24)
    expected = random_nano.denoiser(latent)
    model = random_nano if strip is None else stripped(random_nano, **strip)
    judge = UNetDiscriminator(model.denoiser, 8 * LATENT, model.context())
    torch.testing.assert_close(judge(latent.repeat(1, 8, 1, 1)), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_given_prompt_takes_the_place_of_the_source_s(random_nano):
    latent, context = torch.randn(1, LATENT, 16, 16), torch.randn(1, 5, 64)
    judge = UNetDiscriminator(random_nano.denoiser, LATENT, context)
    torch.testing.assert_close(
        judge(latent), random_nano.denoiser(latent, context), rtol=1e-4, atol=1e-4
    )


def judges(model):
    return (
        UNetDiscriminator(model.denoiser, 8, None),
        NoiseAwareDiscriminator(model.denoiser, None, alphas_cumprod()),
    )


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_gradients_reach_what_trains_and_nothing_else(random_nano, which):
    random_nano.requires_grad_(False)
    before = {n: p.clone() for n, p in random_nano.denoiser.named_parameters()}
    judge = judges(random_nano)[which]
    frozen = {n: p.clone() for n, p in judge.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.SGD(judge.trainable_parameters(), lr=1e-2)
    x = torch.randn(1, (8, LATENT)[which], 16, 16, requires_grad=True)
    for _ in range(2):  # A gets a gradient once B has left zero
        optimizer.zero_grad()
        judge(x).square().mean().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in judge.trainable_parameters())
    assert all(
        torch.equal(p, frozen[n]) and p.grad is None
        for n, p in judge.named_parameters()
        if n in frozen
    )
    assert x.grad.abs().sum() > 0
    assert all(torch.equal(p, before[n]) for n, p in random_nano.denoiser.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_switching_off_and_on_leaves_the_copy_frozen(random_nano, which):
    judge = judges(random_nano)[which]
    trained = {n for n, p in judge.named_parameters() if p.requires_grad}
    judge.requires_grad_(False)
    assert not any(p.requires_grad for p in judge.parameters())
    assert len(judge.trainable_parameters()) == len(trained)
    x = torch.randn(1, (8, LATENT)[which], 16, 16, requires_grad=True)
    judge(x).mean().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in judge.parameters())
    assert judge.requires_grad_(True) is judge
    assert {n for n, p in judge.named_parameters() if p.requires_grad} == trained


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_learns_to_tell_real_from_fake(random_nano, which):
    judge = judges(random_nano)[which]
    channels = (8, LATENT)[which]
    real, fake = torch.randn(2, 2, channels, 16, 16)
    fake = fake.mean(dim=(2, 3), keepdim=True).expand_as(fake) + 1
    optimizer = torch.optim.Adam(judge.trainable_parameters(), lr=3e-3)
    values = []
    for _ in range(12):
        loss = losses.gan_discriminator(judge(real), judge(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert sum(values[-3:]) < 0.7 * sum(values[:3])


@pytest.mark.slow
@torch.no_grad()
def test_noise_aware_input_and_output(random_nano):
    table = alphas_cumprod()
    judge = NoiseAwareDiscriminator(random_nano.denoiser, None, table, steps=(500, 501))
    seen = []
    judge.unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    latent = torch.randn(64, LATENT, 8, 16)
    logits = judge(latent, torch.Generator().manual_seed(3))
    noisy, timesteps = seen[0]
    assert logits.shape == (64, 1, 1, 2)
    assert set(timesteps.tolist()) == {500, 501}
    abar = table[timesteps].float().view(-1, 1, 1, 1)
    noise = (noisy - abar.sqrt() * latent) / (1 - abar).sqrt()
    assert abs(noise.mean().item()) < 0.03
    assert noise.std().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(judge(latent, torch.Generator().manual_seed(3)), logits)
    assert not torch.equal(judge(latent, torch.Generator().manual_seed(4)), logits)
    torch.manual_seed(5)
    drawn = judge(latent)
    torch.manual_seed(5)
    assert torch.equal(judge(latent), drawn)


@torch.no_grad()
def test_noise_aware_sees_the_level_and_the_middle_block(random_nano):
    judge = NoiseAwareDiscriminator(random_nano.denoiser, None, alphas_cumprod())
    latent, middle = torch.randn(1, LATENT, 16, 16), []
    random_nano.denoiser.unet.mid_block.register_forward_hook(
        lambda module, inputs, output: middle.append(output)
    )
    random_nano.denoiser(latent)
    kept = judge.predict(latent, torch.tensor([999]), judge.denoiser.context)
    torch.testing.assert_close(kept, middle[0], rtol=1e-4, atol=1e-4)
    other = judge.predict(latent, torch.tensor([20]), judge.denoiser.context)
    assert (other - kept).abs().max() > 1e-3


@pytest.mark.slow
def test_state_survives_a_copy(random_nano):
    judge, other = judges(random_nano)[1], judges(random_nano)[1]
    with torch.no_grad():
        for p in judge.trainable_parameters():
            p.add_(0.01 * torch.randn_like(p))
    other.load_state_dict(judge.state_dict())
    latent = torch.randn(1, LATENT, 16, 16)
    draws = [torch.Generator().manual_seed(0) for _ in range(2)]
    assert torch.equal(judge(latent, draws[0]), other(latent, draws[1]))


def test_a_source_that_cannot_serve(random_nano):
    table = alphas_cumprod()
    with pytest.raises(
        UserError, match=r"NoiseAwareDiscriminator: the UNet's timestep is folded.*before the strip"
    ):
        NoiseAwareDiscriminator(stripped(random_nano).denoiser, None, table)
    folded_prompt = stripped(random_nano, timestep="keep").denoiser
    assert NoiseAwareDiscriminator(folded_prompt, None, table)(
        torch.randn(1, LATENT, 16, 16)
    ).shape == (1, 1, 2, 2)
    with pytest.raises(UserError, match="has 32 features, the UNet takes 64"):
        UNetDiscriminator(random_nano.denoiser, 8, torch.zeros(1, 77, 32))
    random_nano.denoiser.context = None
    with pytest.raises(
        UserError, match="UNetDiscriminator: the UNet takes a text context and none is given"
    ):
        UNetDiscriminator(random_nano.denoiser, 8, None)
    with pytest.raises(UserError, match="the denoiser is a Identity"):
        UNetDiscriminator(nn.Identity(), 8, None)
