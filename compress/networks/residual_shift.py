"""The three networks of ResShift and SinSR as the components of an SRModel."""

import torch
import torch.nn.functional as F
from torch import nn

from compress.networks.swin_unet import SwinUNet
from compress.networks.vq_autoencoder import VQAutoencoder
from compress.process.resample import upsample


class PairEncoder(nn.Module):
    """The latent of the bicubic x4 enlargement, beside the low-resolution image itself."""

    def __init__(self, vq: VQAutoencoder):
        super().__init__()
        self.encoder = vq.encoder
        self.quant_conv = vq.quant_conv

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Latent [B, 3, H/4, W/4], not quantised, of an image [B, 3, H, W] in [-1, 1]."""
        return self.quant_conv(self.encoder(image))

    def clean(self, image: torch.Tensor) -> torch.Tensor:
        """The latent that the decoder turns back into `image` [B, 3, H, W] in [0, 1]."""
        return self.encode(image * 2 - 1)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """[B, 3, h, w] in [0, 1] -> [B, 6, h, w]: the latent, and `lr` in [-1, 1]."""
        return torch.cat([self.encode(upsample(lr) * 2 - 1), lr * 2 - 1], dim=1)


class CodeDecoder(nn.Module):
    """Latent [B, 3, h, w] -> the nearest codes -> image [B, 3, 4h, 4w] in about [0, 1]."""

    def __init__(self, vq: VQAutoencoder):
        super().__init__()
        self.quantize = vq.quantize
        self.post_quant_conv = vq.post_quant_conv
        self.decoder = vq.decoder

    def features(self, latent: torch.Tensor, quantise: bool = True) -> torch.Tensor:
        """What the middle block puts out, [B, C, h, w]."""
        codes = self.quantize(latent) if quantise else latent
        return self.decoder.mid(self.decoder.conv_in(self.post_quant_conv(codes)))

    def tail(self, features: torch.Tensor) -> torch.Tensor:
        """The image from the middle block's features."""
        h = features
        for level in reversed(self.decoder.up):
            h = level(h)
        return self.decoder.conv_out(F.silu(self.decoder.norm_out(h))) * 0.5 + 0.5

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """[B, 3, h, w] -> [B, 3, 4h, 4w]."""
        return self.tail(self.features(latent))


class PairDenoiser(nn.Module):
    """The Swin UNet on the state and the low-resolution image, as the process pairs them.

    `timestep` is what the network is told where the process names none. There is no text: `context`
    is ignored.
    """

    def __init__(self, unet: SwinUNet, timestep: int):
        super().__init__()
        self.unet = unet
        self.timestep = timestep

    def forward(
        self, latent: torch.Tensor, context: None = None, timesteps: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[B, 6, h, w], and timesteps int64 [B] -> the clean latent [B, 3, h, w]."""
        x, lr = latent.chunk(2, dim=1)
        if timesteps is None:
            timesteps = torch.full((1,), self.timestep, dtype=torch.int64, device=latent.device)
        return self.unet(x, timesteps, lr)
