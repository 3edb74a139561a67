"""pyiqa's SSIM and MS-SSIM in a fraction of their time. Their values differ in the last places.

Most of that time is one window of 11 x 11 in float64, which torch convolves by copying 121 values
for each pixel.
"""

from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn

from eval.metric.builders import Build, pyiqa_metric


class SymmetricWindows(nn.Module):
    """A metric of pyiqa whose windows are applied row by row."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, restored: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Scores [B] of images and their originals, both float [B, 3, H, W] in [0, 1]."""
        from pyiqa.archs import ssim_arch

        with patch.object(ssim_arch, "filter2", filter_valid):
            return self.net(restored, reference)


def by_rows(name: str, **options) -> Build:
    """A metric of windows without weight files.

    Args:
        name: As pyiqa calls it.
        options: What else `pyiqa.create_metric` takes.
    """
    build = pyiqa_metric(name, **options)
    return lambda: SymmetricWindows(build())


def filter_valid(x: torch.Tensor, window: torch.Tensor, shape: str = "valid") -> torch.Tensor:
    """The window's weighted sums, where it lies inside the map.

    A row and its mirror image have the same sums along a row, so that half of them are computed.

    Args:
        x: Float [B, C, H, W].
        window: Float [C, 1, k, k] with odd k, the same for all channels; symmetric about its middle
            row.
        shape: As MATLAB's filter2 has it; `valid` alone is known.

    Returns:
        Float [B, C, H - k + 1, W - k + 1].

    Raises:
        ValueError: Another shape or window.
    """
    rows = window[0, 0]
    size = rows.shape[0]
    if shape != "valid" or size % 2 == 0 or not torch.equal(rows, rows.flip(0)):
        raise ValueError("pyiqa's SSIM has changed: another window than one with equal halves")
    upper = rows[: size // 2 + 1, None, None]
    batch, channels, height, _ = x.shape
    sums = F.conv2d(x.flatten(0, 1)[:, None], upper)
    inside = height - size + 1
    found = sums[:, 0, :inside].clone()
    for row in range(1, size):
        found += sums[:, min(row, size - 1 - row), row : row + inside]
    return found.unflatten(0, (batch, channels))
