"""A TSD-SR with the nano's structure and random values, where only the structure matters."""

import torch
from torch import nn

from compress.families.tsdsr import TSDSRSource
from compress.model.sr_model import SRModel


def random_nano(blocks: int = 2, autoencoder: bool = True) -> SRModel:
    """The nano with few blocks; without the autoencoder a convolution stands for each half.

    Singular values of its linear layers fall as 1/k; where none is larger than others, there is
    nothing for a low-rank branch to hold.
    """
    torch.manual_seed(0)
    model = TSDSRSource(blocks=blocks).build()
    network = model.denoiser.transformer
    if not autoencoder:
        channels = network.pos_embed.proj.in_channels
        model.encoder = nn.Sequential(nn.Conv2d(3, channels, 2, stride=2))
        model.decoder = nn.Sequential(nn.Conv2d(channels, 192, 3, padding=1), nn.PixelShuffle(8))
    model.to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.weight.data.copy_(with_falling_spectrum(module.weight.data))
    return model.eval().requires_grad_(False)


def with_falling_spectrum(weight: torch.Tensor) -> torch.Tensor:
    """The weight with singular values that fall as 1/k, its norm the same."""
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    falling = 1 / torch.arange(1, len(values) + 1)
    return left * (falling * (values.norm() / falling.norm())) @ right
