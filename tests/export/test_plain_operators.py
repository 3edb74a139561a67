"""Plain operators compute what torch's do, on copies."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from torch import nn

from compress.core.errors import UserError
from compress.recipe.export_options import ExportOptions
from export.targets.plain_functions import attend, plain_functions
from export.targets.plain_operators import plain, with_plain_group_norms
from export.targets.table import check_options
from export.targets.to_executorch import takes_codes


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.GroupNorm(4, 12), (2, 12, 5, 7)),
        (nn.GroupNorm(4, 12), (2, 12, 35)),
        (nn.GroupNorm(1, 6, eps=1e-3, affine=False), (1, 6, 4, 4)),
        (nn.LayerNorm(16), (2, 9, 16)),
        (nn.LayerNorm(16, elementwise_affine=False), (1, 9, 16)),
        (GEGLU(16, 24), (2, 9, 16)),
        (GEGLU(16, 24, bias=False), (2, 9, 16)),
    ],
)
@torch.no_grad()
def test_a_plain_layer_computes_the_same(layer, shape):
    for parameter in layer.parameters():
        parameter.normal_(1.0, 0.5)
    network, x = nn.Sequential(layer), torch.randn(shape) * 3 + 2
    other = plain(network)
    assert type(other[0]) is not type(layer)
    assert network[0] is layer
    torch.testing.assert_close(other(x), network(x), rtol=1e-5, atol=1e-4)


def test_group_norms_alone_are_plain():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8), nn.LayerNorm(5)).eval()
    other = with_plain_group_norms(network)
    assert [type(layer).__name__ for layer in other] == ["Conv2d", "PlainGroupNorm", "LayerNorm"]
    assert isinstance(network[1], nn.GroupNorm)
    x = torch.randn(1, 3, 6, 5)
    torch.testing.assert_close(other(x), network(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [None, 0.7])
def test_attention_by_two_products(scale):
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 11, 8), torch.randn(2, 3, 11, 4)
    expected = F.scaled_dot_product_attention(q, k, v, scale=scale)
    torch.testing.assert_close(attend(q, k, v, scale=scale), expected)


def test_attention_with_a_mask_is_torch_s():
    q = torch.randn(1, 2, 6, 8)
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    expected = F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    before = F.scaled_dot_product_attention
    with plain_functions("attention"):
        assert F.scaled_dot_product_attention is not before
        torch.testing.assert_close(F.scaled_dot_product_attention(q, q, q, mask), expected)
    assert F.scaled_dot_product_attention is before


def test_attention_of_shared_keys_is_torch_s():
    q, k = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8)
    expected = F.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    torch.testing.assert_close(attend(q, k, k, enable_gqa=True), expected)


def test_averages_stay_in_float():
    network = plain(nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4))).eval()
    program = torch.export.export(network, (torch.randn(1, 4, 5, 5),)).module()
    taken = [
        takes_codes(node)
        for node in program.graph.nodes
        if node.target is torch.ops.aten.conv2d.default
    ]
    assert taken == [True, False, False]


@pytest.mark.parametrize(("target", "dtype"), [("onnx", None), ("executorch", "w8a8")])
def test_vulkan_computes_in_floats_for_executorch(target, dtype):
    options = ExportOptions(target=target, dtype=dtype, delegate="vulkan")
    with pytest.raises(UserError, match="delegate vulkan is of target executorch in fp32 or fp16"):
        check_options(options)
    assert ExportOptions(target="executorch", dtype="fp16", delegate="vulkan").folder == (
        "executorch_fp16_vulkan"
    )
