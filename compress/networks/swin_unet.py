"""The denoiser of ResShift, SinSR and BiMaCoSR: a UNet with Swin layers.

They are arXiv 2307.12348, 2311.14760 and 2502.00333. Names and shapes of `SwinUNet.state_dict()`
are those of the published checkpoints. Written from facts about them.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.errors import UserError
from compress.networks.swin_layer import SwinLayer, SwinUNetConfig

DEFAULT = SwinUNetConfig()


def timestep_embedding(timesteps: torch.Tensor, channels: int) -> torch.Tensor:
    """Integers [B] -> [B, channels]: cosines, then sines, of periods from 2 pi to 2 pi * 10000."""
    half = channels // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps[:, None].float() * torch.exp(-math.log(10000) / half * steps)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResBlock(nn.Module):
    """Two convolutions with the timestep between them."""

    # None once the timestep is folded (folding/film.py).
    emb_layers: nn.Sequential | None

    def __init__(self, config: SwinUNetConfig, in_channels: int, out_channels: int):
        super().__init__()
        self.film = config.film
        self.in_layers = nn.Sequential(
            nn.GroupNorm(config.groups, in_channels),
            nn.SiLU(),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
        )
        time_channels = 2 * out_channels if config.film else out_channels
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.channels, time_channels))
        # The identity stands where the authors have a dropout of 0: the convolution keeps its
        # number.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(config.groups, out_channels),
            nn.SiLU(),
            nn.Identity(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.skip_connection: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.skip_connection = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor | None) -> torch.Tensor:
        """[B, C_in, h, w] and the timestep's [B, 4 * channels] -> [B, C_out, h, w]."""
        norm = self.out_layers[0]
        rest = self.out_layers[1:]
        h = self.in_layers(x)
        if self.emb_layers is None:
            return self.skip_connection(x) + rest(norm(h))
        time = self.emb_layers(embedding)[..., None, None]
        if self.film:
            scale, shift = time.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + time)
        return self.skip_connection(x) + rest(h)


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2: [B, C, h, w] -> [B, C, h/2, w/2]."""

    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Half as large."""
        return self.op(x)


class Upsample(nn.Module):
    """Nearest enlargement and a 3x3 convolution: [B, C, h, w] -> [B, C, 2h, 2w]."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Twice as large."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stage(nn.Sequential):
    """Layers in a row, of which the residual blocks get the timestep too."""

    def forward(  # type: ignore[override]  # Sequential's takes one input
        self, x: torch.Tensor, embedding: torch.Tensor | None
    ) -> torch.Tensor:
        """[B, C, *, *] and the timestep's [B, 4 * channels] through every layer."""
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResBlock) else layer(x)
        return x


def _stage(
    config: SwinUNetConfig, in_channels: int, out_channels: int, level: int, first: bool
) -> Stage:
    """A residual block; behind the first of some levels a Swin layer."""
    block = ResBlock(config, in_channels, out_channels)
    size = config.size >> level
    if first and size in config.attention:
        return Stage(block, SwinLayer(config, out_channels, size))
    return Stage(block)


class SwinUNet(nn.Module):
    """Predicts the clean latent from a noisy one, the timestep and the low-resolution image."""

    # None once the timestep is folded (folding/film.py).
    time_embed: nn.Sequential | None

    def __init__(self, config: SwinUNetConfig = DEFAULT):
        super().__init__()
        self.config = config
        base = config.channels
        width = base
        last = len(config.multipliers) - 1
        self.time_embed = nn.Sequential(
            nn.Linear(base, 4 * base), nn.SiLU(), nn.Linear(4 * base, 4 * base)
        )
        inputs = config.in_channels + config.lr_channels
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(inputs, base, 3, padding=1))])
        skips = [width]  # channels of what the decoder takes back, the last first
        for level, multiplier in enumerate(config.multipliers):
            for i in range(config.blocks):
                outputs = multiplier * base
                self.input_blocks.append(_stage(config, width, outputs, level, first=i == 0))
                width = outputs
                skips.append(width)
            if level != last:
                self.input_blocks.append(Stage(Downsample(width)))
                skips.append(width)
        self.middle_block = Stage(
            ResBlock(config, width, width),
            SwinLayer(config, width, config.size >> last),
            ResBlock(config, width, width),
        )
        self.output_blocks = nn.ModuleList()
        for level in range(last, -1, -1):
            for i in range(config.blocks + 1):
                outputs = config.multipliers[level] * base
                block = _stage(config, width + skips.pop(), outputs, level, first=i == 0)
                width = outputs
                if level and i == config.blocks:
                    block.append(Upsample(width))
                self.output_blocks.append(block)
        self.out = nn.Sequential(
            nn.GroupNorm(config.groups, width),
            nn.SiLU(),
            nn.Conv2d(width, config.out_channels, 3, padding=1),
        )

    def forward(
        self, x_t: torch.Tensor, timesteps: torch.Tensor, lr: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The clean latent [B, 3, h, w].

        Args:
            x_t: The state after the input normaliser (`ResidualShift.network_input`), [B, 3, h, w].
            timesteps: Integers [B] or [1].
            lr: The low-resolution image [B, 3, h, w] in [-1, 1], as large as the latent: both have
                a
                quarter of the result's side.

        Raises:
            UserError: A side is no multiple of `config.multiple`, or `lr` has another size.
        """
        height, width = x_t.shape[-2:]
        if height % self.config.multiple or width % self.config.multiple:
            raise UserError(
                f"Swin UNet: a map of {width}x{height} does not divide into windows; both sides "
                f"must be multiples of {self.config.multiple}"
            )
        if lr is not None:
            if lr.shape[-2:] != x_t.shape[-2:]:
                raise UserError(
                    f"Swin UNet: the low-resolution image is {lr.shape[-1]}x{lr.shape[-2]} and the "
                    f"latent {width}x{height}; both must have one size"
                )
            x_t = torch.cat([x_t, lr], dim=1)
        embedding = None
        if self.time_embed is not None:
            steps = timestep_embedding(timesteps, self.config.channels)
            embedding = self.time_embed(steps.to(x_t.dtype))
        h = x_t
        skips = []
        for block in self.input_blocks:
            h = block(h, embedding)
            skips.append(h)
        h = self.middle_block(h, embedding)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        return self.out(h)
