"""The networks of an Edge-SD-SR model (CVPR 2025) as the components of an SRModel.

[KNOWN] from abstract and survey: an LR encoder, a small UNet, a decoder of 59 % of the latency.
[REC] our reconstruction: every layer below. The widths that meet the published budget are in
families/edge_sd_sr.py.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from compress.core.errors import UserError
from compress.networks.latent_diffusion import UNetDenoiser


def conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution with a padding of 1."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


class ConvBlock(nn.Module):
    """x + conv2(SiLU(conv1(x))) on [B, C, h, w]: two 3x3 convolutions, no norm, one activation."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = conv3(channels, channels)
        self.conv2 = conv3(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] -> the same."""
        return x + self.conv2(F.silu(self.conv1(x)))


class Level(nn.Module):
    """A change of resolution, if any, and the blocks after it.

    Args:
        resample: A convolution, behind a nearest-neighbour x2 where `up`, of stride 2 where not;
            None on the first level of a network.
        channels: Of the blocks.
        blocks: How many.
        up: Whether the resolution doubles; it is halved otherwise.
    """

    def __init__(self, resample: nn.Conv2d | None, channels: int, blocks: int, up: bool):
        super().__init__()
        self.resample = resample
        self.up = up
        self.blocks = nn.ModuleList(ConvBlock(channels) for _ in range(blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C_in, h, w] -> [B, C, *, *]."""
        if self.resample is not None:
            if self.up:
                x = F.interpolate(x, scale_factor=2.0)
            x = self.resample(x)
        for block in self.blocks:
            x = block(x)
        return x


def levels(widths: Sequence[int], blocks: Sequence[int], up: bool) -> nn.ModuleList:
    """The levels of a network.

    Args:
        widths: Channels of each.
        blocks: Blocks of each.
        up: See `Level`.

    Raises:
        UserError: The two differ in length, or are empty.
    """
    if not widths or len(widths) != len(blocks):
        raise UserError(
            f"widths {tuple(widths)} and blocks {tuple(blocks)} must name the same levels, "
            "one at least"
        )
    stride = 1 if up else 2
    modules = nn.ModuleList([Level(None, widths[0], blocks[0], up)])
    for before, width, count in zip(widths, widths[1:], blocks[1:], strict=False):
        modules.append(Level(conv3(before, width, stride), width, count, up))
    return modules


class LightDecoder(nn.Module):
    """Latent [B, `in_channels`, h, w], unit scale -> image [B, 3, 8h, 8w] in about [0, 1].

    Args:
        widths: Channels of each level, from the latent on; each doubles the resolution of the one
            before. [REC] has four.
        blocks: Blocks of each level.
        in_channels: Of the latent.
        shuffle: Ours: the last doubling is a pixel shuffle (arXiv 1609.05158) behind `conv_out`, so
            that no layer runs at full resolution; three levels then make x8.
    """

    def __init__(
        self,
        widths: Sequence[int] = (320, 160, 64, 24),
        blocks: Sequence[int] = (4, 3, 2, 1),
        in_channels: int = 4,
        shuffle: bool = False,
    ):
        super().__init__()
        self.shuffle = shuffle
        self.scale = 2 ** (len(widths) - 1 + shuffle)
        self.conv_in = conv3(in_channels, widths[0])
        self.levels = levels(widths, blocks, up=True)
        self.conv_out = conv3(widths[-1], 12 if shuffle else 3)

    def features(self, latent: torch.Tensor) -> torch.Tensor:
        """What the level at latent resolution puts out, [B, widths[0], h, w]."""
        return self.levels[0](self.conv_in(latent))

    def tail(self, features: torch.Tensor) -> torch.Tensor:
        """The image from those features."""
        x = features
        for level in self.levels[1:]:
            x = level(x)
        image = self.conv_out(F.silu(x))
        if self.shuffle:
            image = F.pixel_shuffle(image, 2)
        return image * 0.5 + 0.5

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """[B, in_channels, h, w] -> [B, 3, 8h, 8w]."""
        return self.tail(self.features(latent))


class LREncoder(nn.Module):
    """The mean mu_L and log sigma_L^2 of the latent, not clamped.

    The mean comes from a 3x3 convolution and the log-variance from a 1x1: with them the counts are
    those of the facts (1.93M and 9.7 GMAC; 1.96M and 8.6), which name the levels and not the output
    layers.

    Args:
        widths: Channels of each level, from the image on; each halves the resolution.
        blocks: Blocks of each level.
        out_channels: C, of the latent.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 176),
        blocks: Sequence[int] = (2, 3),
        out_channels: int = 4,
    ):
        super().__init__()
        self.conv_in = conv3(3, widths[0])
        self.levels = levels(widths, blocks, up=False)
        self.mean = conv3(widths[-1], out_channels)
        self.log_variance = nn.Conv2d(widths[-1], out_channels, 1)

    def moments(self, lr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """mu_L and log sigma_L^2, each [B, C, h/2, w/2]."""
        x = self.conv_in(lr * 2 - 1)
        for level in self.levels:
            x = level(x)
        x = F.silu(x)
        return self.mean(x), self.log_variance(x)

    @torch.no_grad()
    def start_variance(self, sigma: float) -> None:
        """Let sigma_L be `sigma` everywhere, to begin a training with."""
        nn.init.zeros_(self.log_variance.weight)
        if self.log_variance.bias is not None:
            nn.init.constant_(self.log_variance.bias, 2 * math.log(sigma))

    def clean(self, image: torch.Tensor) -> torch.Tensor:
        """No latent of a photograph, as other encoders give.

        Raises:
            UserError: Always.
        """
        raise UserError(
            "an Edge-SD-SR model encodes low-resolution images only: its encoder of HR images "
            "stays with the training; distil against the teacher (target: teacher), without losses "
            "on HR latents"
        )

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """[B, 3, h, w] in [0, 1] -> [B, 2C, h/2, w/2]."""
        return torch.cat(self.moments(lr), dim=1)


class CleanDenoiser(UNetDenoiser):
    """f_theta([z_t, mu_L], t) -> the clean latent.

    f_theta = mu_L + UNet([z_t, mu_L], t). [REC] has f_theta predict the clean latent; that the UNet
    gives the difference from mu_L is ours, so that a UNet of small weights starts from the
    identity. `timestep` is what the UNet is told where the process names none.
    """

    def __init__(self, unet: UNet2DConditionModel, timestep: int):
        super().__init__(unet, timestep)

    def forward(
        self, latent: torch.Tensor, context: torch.Tensor | None = None, *step: torch.Tensor
    ) -> torch.Tensor:
        """The clean latent [B, C, h, w].

        Args:
            latent: [B, 2C, h, w] as process/bidirectional.py pairs them.
            context: See `UNetDenoiser`.
            step: See `UNetDenoiser`.
        """
        mean = latent.chunk(2, dim=1)[1]
        return mean + super().forward(latent, context, *step)
