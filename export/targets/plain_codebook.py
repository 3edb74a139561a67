"""The search of the nearest code by the least distance, without an index.

Delegates for phones have neither an index of the least value nor a lookup by one.
"""

import torch
from torch import nn

from compress.networks.vq_autoencoder import Codebook

STEEP = 65504.0  # the greatest number of float16


class PlainCodebook(nn.Module):
    """Codebook by a weight for every code, 1 for the nearest and 0 for the others.

    The weight is 1 less the distance beyond the least, made steep and cut off at 1: twice, because
    float16 has no factor that is steep enough. Codes that are equally near are averaged.

    Args:
        codebook: Whose codes are used.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    squares: torch.Tensor

    def __init__(self, codebook: Codebook):
        super().__init__()
        codes = codebook.embedding.weight.detach().float()
        self.register_buffer("rows", codes[None].clone())  # [1, K, C]
        self.register_buffer("columns", (-2 * codes).transpose(0, 1)[None].contiguous())
        self.register_buffer("squares", codes.square().sum(dim=1)[None, None])

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """[1, C, h, w] -> the codes, of the same shape."""
        _, channels, height, width = latent.shape
        x = _wide(latent).reshape(1, channels, height * width).transpose(1, 2)
        distances = torch.bmm(x, _wide(self.columns)) + _wide(self.squares)
        beyond = distances - distances.amin(dim=2, keepdim=True)
        steep = (beyond * STEEP).clamp(max=1)
        weights = 1 - (steep * STEEP).clamp(max=1)
        codes = torch.bmm(weights, _wide(self.rows)) / weights.sum(dim=2, keepdim=True)
        codes = codes.transpose(1, 2).reshape(latent.shape)
        return codes if codes.dtype == latent.dtype else codes.to(latent.dtype)


def _wide(x: torch.Tensor) -> torch.Tensor:
    """In float32: sixteen bits do not tell neighbouring codes apart."""
    return x if x.dtype == torch.float32 else x.float()
