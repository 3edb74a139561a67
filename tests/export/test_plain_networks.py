"""Windows, codes and enlargement without gathers compute what torch's do."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compress.networks.swin_layer import SwinLayer, SwinUNetConfig
from compress.networks.vq_autoencoder import Codebook
from export.targets.plain_functions import plain_functions
from export.targets.plain_operators import stored_codes, without_gathers
from export.targets.plain_resampling import resample, resampling_matrix
from export.targets.plain_windows import rolled
from export.targets.to_litert import is_exact

GATHERS = ("roll", "index", "argmin", "embedding", "upsample_bicubic2d", "repeat", "expand")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def filled(network: nn.Module) -> nn.Module:
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    return network.eval()


def operators(network: nn.Module, x: torch.Tensor) -> set[str]:
    with plain_functions("attention", "resampling", "repetition", "limits"):
        program = torch.export.export(network, (x,))
    return {
        node.target.__name__.split(".")[0]
        for node in program.graph.nodes
        if node.op == "call_function"
    }


@pytest.mark.parametrize("mask", ["published", "swin"])
@torch.no_grad()
def test_windows(mask):
    """On a map of another size than the network was designed for, and not square."""
    config = SwinUNetConfig(
        channels=16, embed=16, head_channels=8, groups=4, window=4, size=32, mask=mask
    )
    layer = filled(SwinLayer(config, 16, 16))
    x = torch.randn(1, 16, 8, 12)
    other = without_gathers(layer, (x,))
    torch.testing.assert_close(other(x), layer(x), rtol=1e-5, atol=1e-5)
    assert not operators(other, x) & set(GATHERS)
    assert operators(layer, x) & set(GATHERS)


@pytest.mark.parametrize("by", [0, 2, -2])
def test_a_map_is_rolled_by_slices_and_joins(by):
    x = torch.randn(2, 3, 6, 8)
    assert torch.equal(rolled(x, by), x.roll((-by, -by), dims=(2, 3)))


@torch.no_grad()
def test_codes():
    network = filled(nn.Sequential(Codebook(64, 3)))
    x = torch.randn(1, 3, 5, 7)
    other = without_gathers(network, (x,))
    torch.testing.assert_close(other(x), network(x))
    assert not operators(other, x) & set(GATHERS)
    assert other.half()(x.half()).dtype == torch.float16


@torch.no_grad()
def test_codes_that_are_equally_near_are_averaged():
    network = nn.Sequential(Codebook(3, 2))
    network[0].embedding.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 9.0]]))
    x = torch.zeros(1, 2, 1, 1)
    assert torch.equal(without_gathers(network, (x,))(x), torch.zeros(1, 2, 1, 1))


@pytest.mark.parametrize(
    "how",
    [
        {"scale_factor": 4},
        {"scale_factor": (2.0, 3.0)},
        {"size": 11},
        {"size": (5, 40)},
        {"size": (5, 6), "antialias": True},
    ],
)
def test_bicubic_resampling_by_two_products(how):
    x = torch.rand(2, 3, 9, 14)
    expected = F.interpolate(x, mode="bicubic", align_corners=False, **how)
    torch.testing.assert_close(resample(x, mode="bicubic", align_corners=False, **how), expected)


@pytest.mark.parametrize(
    "how",
    [
        {"scale_factor": 2.0},
        {"scale_factor": 1.3, "mode": "bicubic"},
        {"size": 20, "mode": "bicubic", "align_corners": True},
    ],
)
def test_other_resampling_is_torch_s(how):
    x = torch.rand(1, 2, 7, 7)
    assert torch.equal(resample(x, **how), F.interpolate(x, **how))


def test_functions_are_plain_within_and_torch_s_afterwards():
    class Enlarged(nn.Module):
        def forward(self, x):
            y = F.interpolate(x, scale_factor=4, mode="bicubic").clamp(0, 1)
            return y + x[:, :, :1, :1].repeat(1, 1, 4 * x.shape[2], 4 * x.shape[3])

    x = torch.rand(1, 3, 6, 8) * 3 - 1
    network = Enlarged()
    assert not operators(network, x) & {*GATHERS, "clamp"}
    before = network(x)
    with plain_functions("resampling", "repetition", "limits"):
        torch.testing.assert_close(network(x), before)
        torch.testing.assert_close(x.clamp(min=0.5), x.clamp_min(0.5))
        assert torch.equal(x.repeat(2, 1, 1, 1, 1), torch.stack([x] * 2))
    assert torch.Tensor.repeat is torch._C.TensorBase.repeat
    assert torch.equal(network(x), before)


def test_windows_of_transformers_swin_in_four_axes():
    from transformers.models.swin import modeling_swin

    before = modeling_swin.window_partition
    x = torch.rand(2, 8, 12, 5)
    cut = modeling_swin.window_partition(x, 4)
    with plain_functions("windows"):
        assert torch.equal(modeling_swin.window_partition(x, 4), cut)
        assert torch.equal(modeling_swin.window_reverse(cut, 4, 8, 12), x)
        assert modeling_swin.window_partition is not before
    assert modeling_swin.window_partition is before


@torch.no_grad()
def test_products_of_plain_operators_keep_their_weights():
    network = without_gathers(nn.Sequential(filled(Codebook(64, 3))), (torch.zeros(1, 3, 2, 2),))
    tables = stored_codes(network)
    resampled = resampling_matrix(8, 32, False)[0].numpy().T
    assert all(is_exact(table[0].T, tables) for table in tables)
    assert is_exact(resampled, [])
    assert not is_exact(resampled[:, ::-1], [])
    assert not is_exact(torch.randn(32, 8).numpy(), tables)
