"""Folding prompt and timestep: exact, the same on meta and real tensors, harmless when repeated."""

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.families.osediff import OSEDiffSource
from compress.networks.latent_diffusion import ConstantProjection, PromptEncoder
from compress.passes.strip import Strip

LATENT = OSEDiffSource().latent_channels

LATENTS = [(1, LATENT, 16, 16), (2, LATENT, 16, 24)]


def shapes(model: nn.Module) -> dict[str, tuple]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@torch.no_grad()
def error(before: nn.Module, after: nn.Module, latent: torch.Tensor) -> float:
    """Largest difference of two models' predictions, relative to the largest value."""
    expected = before.denoiser(latent, before.context())
    return (
        (after.denoiser(latent, after.context()) - expected).abs().max() / expected.abs().max()
    ).item()


@pytest.mark.parametrize("keys", [{}, {"text": "keep"}, {"timestep": "keep"}])
def test_exact(random_nano, keys):
    stripped = copy.deepcopy(random_nano)
    Strip(**{"pass": "strip"}, **keys).convert(stripped)
    for shape in LATENTS:
        assert error(random_nano, stripped, torch.randn(shape)) <= 1e-5, shape
    assert measure(stripped, (32, 32)).macs_paper < measure(random_nano, (32, 32)).macs_paper


def test_the_network_is_sensitive_to_what_is_folded(random_nano):
    other = copy.deepcopy(random_nano)
    other.denoiser.context.data += 0.1
    assert error(random_nano, other, torch.randn(LATENTS[0])) > 1e-4
    other = copy.deepcopy(random_nano)
    other.denoiser.timestep = 900
    assert error(random_nano, other, torch.randn(LATENTS[0])) > 1e-4


@pytest.mark.parametrize("shape", LATENTS)
def test_text_encoder_becomes_a_constant(random_nano, shape):
    config = CLIPTextConfig(
        vocab_size=50,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        eos_token_id=49,
    )
    random_nano.denoiser.context = None
    random_nano.text_encoder = PromptEncoder(
        CLIPTextModel(config), torch.randint(0, 50, (1, 77))
    ).eval()
    stripped = copy.deepcopy(random_nano)
    Strip().convert(stripped)
    assert stripped.text_encoder is None
    assert stripped.denoiser.context is None
    assert error(random_nano, stripped, torch.randn(shape)) <= 1e-5


def test_same_structure_on_meta_and_round_trip(random_nano):
    Strip().convert(random_nano)
    built = OSEDiffSource().build()
    Strip().convert(built)
    assert shapes(built) == shapes(random_nano)
    assert all(p.is_meta for p in built.parameters())
    built.load_state_dict({k: v.clone() for k, v in random_nano.state_dict().items()}, assign=True)
    lr = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(built(lr), random_nano(lr))


def test_twice_changes_nothing_more(random_nano):
    Strip().convert(random_nano)
    once = copy.deepcopy(random_nano)
    Strip().convert(random_nano)
    assert shapes(once) == shapes(random_nano)
    assert error(once, random_nano, torch.randn(LATENTS[0])) == 0


def test_one_half_then_the_other_is_both(random_nano):
    both, halves = copy.deepcopy(random_nano), copy.deepcopy(random_nano)
    Strip().convert(both)
    Strip(timestep="keep").convert(halves)
    Strip(text="keep").convert(halves)
    assert shapes(both) == shapes(halves)
    assert error(both, halves, torch.randn(LATENTS[0])) == 0


def test_precision_and_gradients_of_parameters_are_kept(random_nano):
    model = random_nano.half().requires_grad_(False)
    Strip().convert(model)
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert not any(p.requires_grad for p in model.parameters())


def test_what_goes_from_sd21():
    model = OSEDiffSource(size="sd21").build()
    before = measure(model).component("denoiser")
    time = sum(p.numel() for p in model.denoiser.unet.time_embedding.parameters())
    projections = sum(
        p.numel() for name, p in model.denoiser.named_parameters() if "time_emb_proj" in name
    )
    assert (time, projections) == (2_050_560, 25_824_960)
    Strip(text="keep").convert(model)
    assert before.params - measure(model).component("denoiser").params == 27_875_520
    keys_values = sum(
        p.numel()
        for name, p in model.denoiser.named_parameters()
        if "attn2.to_k." in name or "attn2.to_v." in name
    )
    Strip().convert(model)
    constants = [m for m in model.modules() if isinstance(m, ConstantProjection)]
    assert (keys_values, sum(m.value.numel() for m in constants), len(constants)) == (
        25_559_040,
        1_921_920,
        32,
    )
    after = measure(model)
    assert list(after.components()) == ["encoder", "denoiser", "decoder"]
    assert (
        after.component("denoiser").params
        == 865_910_724 - 27_875_520 - 25_559_040 + 1_921_920
        == 814_398_084
    )


def test_replaced_layers_are_refused(random_nano):
    class Other(nn.Linear):
        pass

    attention = random_nano.denoiser.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2
    attention.to_k = Other(64, 64, bias=False)
    with pytest.raises(UserError, match=r"attn2\.to_k is a Other.*list strip before"):
        Strip().convert(random_nano)


def test_other_denoisers_and_keys_are_refused(random_nano):
    random_nano.denoiser = nn.Identity()
    with pytest.raises(UserError, match="remove the pass"):
        Strip().convert(random_nano)
    with pytest.raises(ValidationError):
        Strip(texts="keep")


@pytest.mark.slow
def test_it_can_be_exported(random_nano):
    Strip().convert(random_nano)
    latent = torch.randn(1, LATENT, 16, 16)
    with torch.no_grad():
        exported = torch.export.export(random_nano.denoiser.eval(), (latent,)).module()
        assert torch.allclose(exported(latent), random_nano.denoiser(latent), atol=1e-5)
