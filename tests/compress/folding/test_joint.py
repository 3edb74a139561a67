"""Folding SD 3's transformer: exact, to the digit of the sheet, and no further than it may."""

import copy

import pytest
import torch
from bench.random_weights import randomise
from diffusers import SD3Transformer2DModel
from support.golden import Golden
from support.tsdsr_golden import published, write_release
from torch import nn

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.families.tsdsr import TSDSRSource, tsdsr_model
from compress.model.sr_model import SRModel
from compress.networks.mmdit import ConstantPrompt, MMDiT, MMDiTDenoiser
from compress.networks.mmdit_block import ConstantTokens
from compress.passes.strip import Strip

SMALL = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 10,
    "pos_embed_max_size": 16,
}
SD35 = {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)}


def small(**options: object) -> SRModel:
    """A small transformer between the nano's autoencoder, in float64."""
    torch.manual_seed(0)
    nano = randomise(TSDSRSource().build())
    network = MMDiT(SD3Transformer2DModel(**SMALL | options))
    prompt = ConstantPrompt(5, SMALL["joint_attention_dim"], SMALL["pooled_projection_dim"])
    prompt.reset_parameters()
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.bias, std=0.5)
    parts = {
        "text_encoder": prompt,
        "encoder": nano.encoder,
        "denoiser": MMDiTDenoiser(network, 1000.0),
        "decoder": nano.decoder,
    }
    return tsdsr_model(parts).double().requires_grad_(False)


def prediction(model: SRModel, latent: torch.Tensor) -> torch.Tensor:
    constants = model.constants()
    return model.denoiser(latent, constants.get("context"), constants.get("pooled"))


def latent(height: int = 4, width: int = 6) -> torch.Tensor:
    return torch.randn(2, 16, height, width, dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, SD35, {"num_layers": 1}], ids=["sd3", "sd35", "one block"])
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"text": "embedding"},
        {"timestep": "keep"},
        {"text": "keep", "timestep": "keep"},
    ],
)
def test_folding_changes_nothing(options, keys):
    model = small(**options)
    folded = copy.deepcopy(model)
    Strip(**keys).convert(folded)
    given = latent()
    expected = prediction(model, given)
    assert (prediction(folded, given) - expected).abs().max() <= 2e-14 * expected.abs().max()


@torch.no_grad()
def test_the_authors_prediction_folded(shared, tmp_path):
    golden = Golden(shared / "golden", "tsdsr_mmdit")
    pipeline = Golden(shared / "golden", "tsdsr_pipeline")
    model = published(write_release(tmp_path / "files", golden, pipeline), golden, pipeline)
    Strip().convert(model)
    golden.check(model.denoiser(golden["inputs.a.latent"]), "a.prediction")
    assert model.text_encoder is None


@torch.no_grad()
def test_a_second_strip_is_harmless():
    model = small()
    Strip(timestep="keep").convert(model)
    Strip().convert(model)
    before = prediction(model, given := latent())
    Strip().convert(model)
    assert torch.equal(prediction(model, given), before)


@torch.no_grad()
def test_shapes_on_the_meta_device_are_those_of_values():
    real, meta = TSDSRSource().build(), TSDSRSource().build()
    real = randomise(real)
    for keys in ({}, {"text": "remove"}):
        one, other = copy.deepcopy(real), copy.deepcopy(meta)
        Strip(**keys).convert(one)
        Strip(**keys).convert(other)
        assert {n: t.shape for n, t in one.state_dict().items()} == {
            n: t.shape for n, t in other.state_dict().items()
        }


@torch.no_grad()
def test_only_the_first_blocks_text_is_constant():
    """What later blocks see of the text differs from image to image."""
    model = small()
    Strip().convert(model)
    network = model.denoiser.transformer
    constants = [name for name, m in network.named_modules() if isinstance(m, ConstantTokens)]
    assert constants == [
        "context_embedder",
        *(f"transformer_blocks.0.attn.add_{x}_proj" for x in "qkv"),
    ]
    seen = []
    layer = network.transformer_blocks[1].attn.add_k_proj
    layer.register_forward_hook(lambda _m, _i, out: seen.append(out))
    prediction(model, latent())
    assert (seen[0][0] - seen[0][1]).abs().max() > 1e-3


def test_the_queries_that_nothing_reads_go():
    model = small()
    Strip().convert(model)
    blocks = model.denoiser.transformer.transformer_blocks
    assert [block.attn.add_q_proj is None for block in blocks] == [False, False, True]


@torch.no_grad()
def test_without_text_stream_the_prompt_stays_in_the_modulations():
    model = small()
    removed = copy.deepcopy(model)
    Strip(text="remove").convert(removed)
    other = copy.deepcopy(model)
    other.text_encoder.context.data += 1
    Strip(text="remove").convert(other)
    given = latent()
    assert torch.equal(prediction(removed, given), prediction(other, given))
    other = copy.deepcopy(model)
    other.text_encoder.pooled.data += 1
    Strip(text="remove").convert(other)
    assert not torch.allclose(prediction(removed, given), prediction(other, given))
    names = [name for name, _ in removed.denoiser.named_parameters()]
    assert not [name for name in names if "context" in name or "add_" in name]


COUNTS = {
    "constant": (1_329_130_048, 912_038_559_744, 1_046_416_733_184),
    "remove": (680_007_232, 695_986_028_544, 773_295_439_872),
}


@pytest.mark.parametrize("text", list(COUNTS))
def test_full_size_has_the_sheets_counts(text):
    model = TSDSRSource(size="full").build()
    Strip(text=text).convert(model)
    found = measure(model).component("denoiser")
    assert (found.params, found.macs_paper, found.macs_full) == COUNTS[text]


def test_what_cannot_be_folded():
    model = TSDSRSource().build()
    with pytest.raises(UserError, match="would drop the gates of every block"):
        Strip(timestep="remove").convert(model)
    with pytest.raises(UserError, match="timestep=fold needs a constant text"):
        Strip(text="keep").convert(model)
    layer = model.denoiser.transformer.transformer_blocks[1].ff.net[0].proj

    class Other(nn.Linear):
        pass

    layer.__class__ = Other
    with pytest.raises(UserError, match=r"transformer_blocks\.1\.ff\.net\.0\.proj is a Other"):
        Strip().convert(model)
