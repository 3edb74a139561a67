"""Quantisers and equivalent transforms in SD 3's transformer."""

import copy

import pytest
import torch
from support.tiny_families import tiny_family
from torch import nn

from compress.data.config import Calibration
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.passes.quantize import Quantize
from compress.passes.strip import Strip
from compress.quant.points import points_of
from compress.quant.sites import find_sites

LR = torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(0))
BLOCK = "transformer.transformer_blocks"


def folded(**keys: str) -> SRModel:
    model = tiny_family("tsdsr", autoencoder=False)
    Strip(**keys).convert(model)
    return model


def quantised(model: SRModel, **keys: object) -> SRModel:
    step = Quantize(components=("denoiser",), calibration=Calibration(images=2, size=32), **keys)
    source = copy.deepcopy(model)
    step.convert(model)
    with torch.enable_grad():
        step.fit(model, FitContext(source=source))
    return model.eval().requires_grad_(False)


def psnr(found: torch.Tensor, expected: torch.Tensor) -> float:
    error = (found - expected).square().mean()
    return (10 * torch.log10(expected.square().mean() / error)).item()


@torch.no_grad()
@pytest.mark.parametrize("keys", [{}, {"text": "remove"}, {"timestep": "keep"}])
def test_joint_attention_has_one_quantiser_for_both_streams(keys):
    """Image and text tokens are one Q, one K, one V and one softmax."""
    before = folded(**keys)
    expected = before.network(LR)
    model = quantised(before, method="minmax", attention=True)
    names = points_of(model.denoiser).names()
    for block in range(3):
        for role in ("q", "k", "v", "probs"):
            assert f"{BLOCK}.{block}.attn.attention.{role}" in names
    assert psnr(model.network(LR), expected) > 25


@torch.no_grad()
def test_the_whole_graph_in_8_bits():
    before = folded()
    expected = before.network(LR)
    model = quantised(before, method="minmax", placement="full")
    assert psnr(model.network(LR), expected) > 20


def test_modulations_and_patches_are_quantised():
    """AdaLN while it stands, and what makes tokens of a latent and a latent of tokens."""
    model = folded(timestep="keep")
    Quantize(components=("denoiser",)).convert(model)
    network = model.denoiser.transformer
    names = {name for name, module in network.named_modules() if hasattr(module, "weight_bits")}
    assert names >= {
        "pos_embed.proj",
        "proj_out",
        "norm_out.linear",
        "transformer_blocks.0.norm1.linear",
        "transformer_blocks.1.norm1_context.linear",
        "time_text_embed.timestep_embedder.linear_1",
        "time_text_embed.text_embedder.linear_1",
    }


@pytest.mark.slow
@torch.no_grad()
def test_transforms_fold_into_norms_that_had_no_weights():
    before = folded()
    for block in before.denoiser.transformer.transformer_blocks:
        block.ff.net[0].proj.weight[:, 0] *= 20  # a column that spoils each row's grid
    expected = before.network(LR)
    norm = before.denoiser.transformer.transformer_blocks[0].norm2
    assert norm.weight is None
    model = quantised(before, epochs=1)
    norm = model.denoiser.transformer.transformer_blocks[0].norm2
    assert isinstance(norm.weight, nn.Parameter)
    assert not torch.equal(norm.weight, torch.ones_like(norm.weight))
    assert psnr(model.network(LR), expected) > 25
    # Two norms in each image stream; of the text stream the first block's first is constant, and
    # the last block has one alone.
    assert len(find_sites(model.denoiser)) == 3 * 2 + 1 + 2 + 1


def test_no_site_while_modulations_stand_between():
    model = folded(timestep="keep")
    Quantize(components=("denoiser",)).convert(model)
    assert find_sites(model.denoiser) == []


def test_the_structure_is_the_same_on_the_meta_device():
    real, meta = folded(), folded().to("meta")
    for model in (real, meta):
        Quantize(components=("denoiser",)).convert(model)
    learning = (".fit.",)
    shapes = [
        {n: t.shape for n, t in m.state_dict().items() if not any(x in n for x in learning)}
        for m in (real, meta)
    ]
    assert shapes[0] == shapes[1]
    assert "denoiser.transformer.transformer_blocks.1.norm1.norm.weight" in shapes[0]
