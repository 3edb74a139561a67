"""Norms for float16: the same values, and none that overflows."""

import pytest
import torch
from torch import nn

from export.targets.safe_norms import SafeGroupNorm, SafeLayerNorm, power_for, with_safe_norms


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def squares_by_hand(norm: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
    """GroupNorm as a converter takes it apart."""
    parts = x.reshape(len(x), norm.num_groups, -1)
    centred = parts - parts.mean(-1, keepdim=True)
    variance = (centred * centred).mean(-1, keepdim=True)
    return (centred * torch.rsqrt(variance + norm.eps)).reshape(x.shape)


@pytest.mark.parametrize(
    ("norm", "shape", "kind"),
    [
        (nn.GroupNorm(4, 12), (2, 12, 5, 7), SafeGroupNorm),
        (nn.GroupNorm(3, 12, affine=False), (1, 12, 35), SafeGroupNorm),
        (nn.LayerNorm(16), (2, 9, 16), SafeLayerNorm),
        (nn.LayerNorm(16, elementwise_affine=False), (1, 9, 16), SafeLayerNorm),
    ],
)
@torch.no_grad()
def test_values_are_those_of_the_norm(norm, shape, kind):
    for parameter in norm.parameters():
        parameter.normal_(1.0, 0.5)
    x = torch.randn(shape) * 400 + 100
    other = with_safe_norms(nn.Sequential(norm), [(x,)])[0]
    assert type(other) is kind
    assert other.by > 1
    torch.testing.assert_close(other(x), norm(x), rtol=1e-4, atol=1e-4)
    half = other.half()(x.half()).float()
    torch.testing.assert_close(half, norm(x), rtol=2e-2, atol=2e-2)


@torch.no_grad()
def test_squares_overflow_without_it():
    norm = nn.GroupNorm(4, 12, affine=False)
    x = (torch.randn(1, 12, 16, 16) * 400).half()
    assert squares_by_hand(norm, x).abs().max() < 1e-2  # of infinite variances
    other = with_safe_norms(nn.Sequential(norm), [(x.float(),)]).half()
    assert 3 < other(x).abs().max() < 6


@torch.no_grad()
def test_a_norm_of_small_maps_stays_as_it_is():
    network = nn.Sequential(nn.GroupNorm(4, 12), nn.Conv2d(12, 12, 1))
    other = with_safe_norms(network, [(torch.randn(1, 12, 8, 8),)])
    assert type(other[0]) is nn.GroupNorm
    assert other[0] is not network[0]


@pytest.mark.parametrize(("reach", "count"), [(1.0, 64), (300.0, 64), (3e4, 512)])
def test_the_power_of_two_keeps_a_sum_of_squares_within(reach, count):
    by = power_for(reach, count)
    assert by == 1 or by.is_integer()
    assert (reach / by) ** 2 * count * 4 <= 65504
    assert by == 1 or (2 * reach / by) ** 2 * count * 4 > 65504
