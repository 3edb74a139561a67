"""SSIM by rows has pyiqa's values."""

import pytest
import torch
import torch.nn.functional as F

from eval.metric.builders import pyiqa_metric
from eval.metric.ssim import by_rows, filter_valid


@pytest.mark.parametrize("name", ["ssim", "ssimc", "ms_ssim"])
def test_the_values_are_pyiqas(name):
    images = torch.rand(2, 3, 170, 180, generator=torch.Generator().manual_seed(0))
    noisy = (0.9 * images + 0.1 * images.flip(0)).clamp(0, 1)
    expected = pyiqa_metric(name)()(noisy, images)
    torch.testing.assert_close(by_rows(name)()(noisy, images), expected, rtol=1e-9, atol=0)


def test_the_sums_are_the_convolutions():
    window = torch.rand(6, 11, dtype=torch.float64)
    window = torch.cat([window, window[:5].flip(0)]).expand(3, 1, 11, 11)
    x = torch.rand(2, 3, 15, 20, dtype=torch.float64)
    expected = F.conv2d(x, window, groups=3)
    torch.testing.assert_close(filter_valid(x, window), expected)


def test_another_window_is_an_error():
    with pytest.raises(ValueError, match="another window"):
        filter_valid(torch.rand(1, 1, 9, 9), torch.rand(1, 1, 3, 3))
