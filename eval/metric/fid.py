"""FID as clean-fid defines it (Parmar et al., CVPR 2022).

Images are resized by PIL's bicubic. Inception features are taken image by image, so that they can
be cached and computed in several processes; the distance comes from all of them at the end.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

SIDE = 299  # pixels of the side of what Inception takes
WIDTH = 2048  # features of an image


class Inception(nn.Module):
    """pyiqa's FID network.

    Args:
        weights: The file of its weights.
    """

    def __init__(self, weights: Path):
        super().__init__()
        from pyiqa.archs import inception

        block = inception.InceptionV3.BLOCK_INDEX_BY_DIM[WIDTH]
        before = inception.FID_WEIGHTS_URL
        inception.FID_WEIGHTS_URL = str(weights)
        try:
            self.net = inception.InceptionV3([block]).eval()
        finally:
            inception.FID_WEIGHTS_URL = before

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features [B, 2048] of images, float [B, 3, H, W] in [0, 1]."""
        small = torch.stack([_resize(image) for image in images.cpu()])  # [B, 3, 299, 299], 0..255
        resized = small.to(images.device)
        return self.net((resized - 128) / 128, False, False)[0].flatten(1)


def _resize(image: torch.Tensor) -> torch.Tensor:
    """[3, H, W] in [0, 1] -> [3, 299, 299] in [0, 255] by PIL's antialiased bicubic, in float."""
    pixels = (image * 255).round().numpy()
    channels = [
        np.asarray(Image.fromarray(c, mode="F").resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        for c in pixels
    ]
    return torch.from_numpy(np.stack(channels).clip(0, 255))


def frechet(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Fréchet distance of two sets, |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    With X = centred features / sqrt(n - 1), C = X'X and tr (C1 C2)^(1/2) is the sum of the singular
    values of X1 X2'. That is exact where fewer images than features leave C singular, and far
    quicker than the root of a 2048 x 2048 matrix.

    Args:
        ours: Features [n, d], n >= 2.
        theirs: Features [m, d], m >= 2.
    """
    centred = []
    for features in (ours, theirs):
        features = features.astype(np.float64)
        centred.append((features - features.mean(0)) / np.sqrt(len(features) - 1))
    gap = ours.astype(np.float64).mean(0) - theirs.astype(np.float64).mean(0)
    root = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    return float(gap @ gap + (centred[0] ** 2).sum() + (centred[1] ** 2).sum() - 2 * root)
