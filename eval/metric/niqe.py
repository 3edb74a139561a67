"""NIQE (Mittal et al., IEEE SPL 2013) in the arithmetic of the published tables.

NIQE rounds the luma to whole levels and reads shape parameters off a grid. Both turn the last bit
of float32 into a jump of the score, up to 0.02 between processors (measured). StableSR's and
OSEDiff's tables were made by pyiqa <= 0.1.12 on a CUDA GPU. This follows that, step by step in
elementwise float32, where the order of operations tells. All else is pyiqa's own code in float64,
where it does not. OSEDiff's log for RealSR is met to its last digit, whatever the processor.
"""

from pathlib import Path

import numpy as np
import scipy.io
import torch
from torch import nn

BLOCK = 96  # pixels of the side of a block whose statistics are taken
LUMA = (0.299, 0.587, 0.114)  # Y of YIQ
# MATLAB's antialiased bicubic at factor 1/2.
HALVING = torch.tensor([-3, -9, 29, 111, 111, 29, -9, -3]) / 256


class Niqe(nn.Module):
    """NIQE as a network; lower is better.

    Args:
        weights: niqe_modelparameters.mat, the statistics of undistorted photographs.
    """

    mu_prisparam: torch.Tensor
    cov_prisparam: torch.Tensor

    def __init__(self, weights: Path):
        super().__init__()
        pristine = scipy.io.loadmat(weights)
        for name in ("mu_prisparam", "cov_prisparam"):
            exact = torch.from_numpy(pristine[name].astype(np.float64))
            # pyiqa <= 0.1.12 took them through the images' float32.
            self.register_buffer(name, exact.float().double().squeeze(0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores of images.

        Args:
            images: Float [B, 3, H, W] in [0, 1], multiples of 1/255, both sides >= 96.

        Returns:
            Scores [B].

        Raises:
            torch.linalg.LinAlgError: An image has no texture.
        """
        from pyiqa.matlab_utils import nancov, nanmean

        height, width = (side // BLOCK * BLOCK for side in images.shape[-2:])
        image = _luma(images[..., :height, :width])
        half = 255 * _halved(_halved((image / 255).float(), 2), 3).double()
        features = torch.cat([_features(image, BLOCK), _features(half, BLOCK // 2)], -1)
        inverse = torch.linalg.pinv((self.cov_prisparam + nancov(features)) / 2)
        away = (self.mu_prisparam - nanmean(features, dim=1)).unsqueeze(1)
        return (away @ inverse @ away.mT).flatten().sqrt()


def _features(image: torch.Tensor, side: int) -> torch.Tensor:
    """Statistics of blocks of `side` pixels of [B, 1, H, W] -> [B, blocks, 18]."""
    from pyiqa.archs.func_util import normalize_img_with_gauss
    from pyiqa.archs.niqe_arch import compute_feature
    from pyiqa.matlab_utils import blockproc

    normalised = normalize_img_with_gauss(image, padding="replicate")
    return blockproc(normalised, [side, side], fun=compute_feature)


def _luma(images: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] -> whole levels [B, 1, H, W] of float64.

    Float32 decides which way an exact half goes. CUDA divides by a number by multiplying with its
    reciprocal, and adds up a product of matrices in order with fused multiply-adds. A float64 holds
    the product of two float32, so that rounding the sum is the fused step.
    """
    level = (images * 255).round().float() * torch.tensor(1 / 255)
    total = torch.zeros_like(level[:, :1])
    weights = torch.tensor(LUMA).double().tolist()
    for channel, weight in zip(level.split(1, 1), weights, strict=True):
        total = (channel.double() * weight + total).float()
    return (total * 255).round().double()


def _halved(image: torch.Tensor, dim: int) -> torch.Tensor:
    """One dimension, of even length, to half by pyiqa's `imresize`, float32 even for float64.

    CUDA adds up ten taps, of which the outer two are 0, in four interleaved strands, and then the
    strands.
    """
    size = image.shape[dim]
    before = image.narrow(dim, 0, 3).flip(dim)
    after = image.narrow(dim, size - 3, 3).flip(dim)
    mirrored = torch.cat([before, image, after], dim)
    taps = mirrored.unfold(dim, len(HALVING), 2) * HALVING.to(image)  # [..., 8]
    second, third, fourth, first = (taps[..., :4] + taps[..., 4:]).unbind(-1)
    return first + second + third + fourth
