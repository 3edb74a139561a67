"""near_attention: windows and averages of attentions over maps."""

import copy

import pytest
import torch
from pydantic import ValidationError
from support.onnx_parity import check_onnx
from support.tiny_families import tiny_family

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.networks.noise_predictor import NoisePredictor
from compress.passes.near_attention import NearAttentionPass

LR = torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(0))


def near(**options) -> NearAttentionPass:
    return NearAttentionPass(components=("noise_predictor",), **options)


@pytest.fixture(scope="module")
def model():
    return tiny_family("invsr", autoencoder=False)


def changed(model, step):
    found = copy.deepcopy(model)
    step.convert(found)
    return found.noise_predictor


@torch.no_grad()
def test_what_sees_all_positions_changes_nothing(model):
    square = LR[..., :16]
    level = near(kind="windows", side=16, blocks=("encoder.down_blocks.0.*",))
    averages = near(kind="averages", side=1)
    expected = model.noise_predictor(square)
    for step in (level, averages):
        torch.testing.assert_close(changed(model, step)(square), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_window_sees_its_own_pixels(model):
    attention = copy.deepcopy(model.noise_predictor.encoder.down_blocks[0].attentions[0])
    found = changed(model, near(side=8)).encoder.down_blocks[0].attentions[0]
    x = torch.randn(2, 8, 16, 24, generator=torch.Generator().manual_seed(1))
    normed = attention.group_norm(x)
    attention.group_norm = None
    attention.residual_connection = False
    expected = torch.empty_like(x)
    for top in (0, 8):
        for left in (0, 8, 16):
            place = (..., slice(top, top + 8), slice(left, left + 8))
            expected[place] = attention(normed[place].contiguous())
    torch.testing.assert_close(found(x), x + expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_averages_are_of_blocks(model):
    found = changed(model, near(kind="averages", side=4)).encoder.down_blocks[0].attentions[0]
    x = torch.randn(1, 8, 8, 8)
    blocks = torch.nn.functional.avg_pool2d(found.group_norm(x), 4)
    tokens = blocks.flatten(2).mT
    queries = found.to_q(found.group_norm(x).flatten(2).mT)
    scores = queries @ found.to_k(tokens).mT / found.to_k(tokens).shape[-1] ** 0.5
    expected = found.to_out[0](scores.softmax(-1) @ found.to_v(tokens)).mT.reshape(x.shape)
    torch.testing.assert_close(found(x), x + expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"side": 4}, {"kind": "averages", "side": 4}])
def test_onnxruntime_computes_the_same(model, options):
    check_onnx(changed(model, near(**options)), LR)


@torch.no_grad()
def test_without_attention_the_map_passes(model):
    found = changed(model, near(kind="none", blocks=("*attentions.0",)))
    assert found(LR).shape == (1, 4, 8, 16)
    assert not any("to_q" in name for name, _ in found.named_parameters())


def test_the_published_predictor_without_its_dearest_products(model):
    """The sheet's counts: attention is 481 of 664 GMACs, 412 of them on the first level."""
    model = copy.deepcopy(model)
    with torch.device("meta"):
        model.noise_predictor = NoisePredictor()
    before = measure(model, (128, 128)).component("noise_predictor")
    assert before.macs_full == 664_107_220_992
    near(side=16, blocks=("encoder.down_blocks.0.*",)).convert(model)
    near(side=8, blocks=("encoder.down_blocks.1.*", "encoder.mid_block.*")).convert(model)
    after = measure(model, (128, 128)).component("noise_predictor")
    assert after.macs_paper == before.macs_paper
    first = 3 * 2 * 16384 * 256 * 256
    second = 4 * 2 * 4096 * 64 * 512
    assert after.macs_full == before.macs_paper + first + second


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"components": ("denoiser",), "side": 4}, "the denoiser has no attention over a map"),
        ({"blocks": ("encoder.up*",), "side": 4}, "blocks pattern 'encoder.up.*' matches no"),
        ({"side": 3}, "attention on a map of 16x16 pixels does not divide into blocks of 3"),
    ],
)
def test_mistakes_get_a_sentence(model, options, said):
    step = NearAttentionPass(**{"components": ("noise_predictor",), **options})
    with pytest.raises(UserError, match=said):
        step.convert(copy.deepcopy(model))


@pytest.mark.parametrize("options", [{"kind": "none", "side": 4}, {"kind": "windows"}])
def test_a_side_belongs_to_blocks(options):
    with pytest.raises(ValidationError, match="side"):
        near(**options)
