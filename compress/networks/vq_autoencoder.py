"""The VQ autoencoder (f = 4) of ResShift, SinSR and BiMaCoSR (VQGAN, arXiv 2012.09841, with continuous encoding).

Names and shapes of `VQAutoencoder.state_dict()` are those of the published checkpoint. Written from facts about it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.errors import UserError

EPS = 1e-6


@dataclass(frozen=True)
class VQConfig:
    """The defaults are the published autoencoder. Raises UserError when a width cannot be normalised."""

    channels: int = 128
    multipliers: tuple[int, ...] = (
        1,
        2,
        4,
    )  # channels of a level, from the image on, in multiples of `channels`
    blocks: int = 2  # residual blocks a level (one more in the decoder)
    latent_channels: int = 3
    codes: int = 8192
    image_channels: int = 3
    groups: int = 32  # of every GroupNorm
    attention: bool = True  # over all positions, in the middle of encoder and decoder

    def __post_init__(self) -> None:
        if self.channels % self.groups:
            raise UserError(
                f"VQ autoencoder: channels ({self.channels}) must be a multiple of {self.groups}"
            )

    @property
    def factor(self) -> int:
        """Side of the image over side of the latent."""
        return 2 ** (len(self.multipliers) - 1)


def _norm(config: VQConfig, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(config.groups, channels, eps=EPS)


class ResnetBlock(nn.Module):
    def __init__(self, config: VQConfig, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = _norm(config, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = _norm(config, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    """One head over all positions: [B, C, h, w] -> the same. Time and memory grow with (h * w)^2."""

    def __init__(self, config: VQConfig, channels: int):
        super().__init__()
        self.norm = _norm(config, channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        # [B, 1, h * w, C]: the ONNX exporter wants the axis of heads.
        q, k, v = (
            layer(h).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v)
        )
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(h[:, 0].transpose(1, 2).unflatten(2, x.shape[2:]))


class Middle(nn.Module):
    def __init__(self, config: VQConfig, channels: int):
        super().__init__()
        self.block_1 = ResnetBlock(config, channels, channels)
        self.attn_1 = Attention(config, channels) if config.attention else nn.Identity()
        self.block_2 = ResnetBlock(config, channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # right and bottom only


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks of one resolution, then `sample`, if any, under the name `sample_name`."""

    def __init__(
        self,
        config: VQConfig,
        in_channels: int,
        out_channels: int,
        blocks: int,
        sample: nn.Module | None,
        sample_name: str,
    ):
        super().__init__()
        self.block = nn.Sequential(
            *(
                ResnetBlock(config, out_channels if i else in_channels, out_channels)
                for i in range(blocks)
            )
        )
        self.sample_name = sample_name
        self.register_module(sample_name, sample)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, sample = self.block(x), getattr(self, self.sample_name)
        return x if sample is None else sample(x)


class Encoder(nn.Module):
    """Image [B, 3, H, W] -> [B, latent_channels, H / factor, W / factor], before `quant_conv`."""

    def __init__(self, config: VQConfig):
        super().__init__()
        widths, last = (
            [m * config.channels for m in config.multipliers],
            len(config.multipliers) - 1,
        )
        self.conv_in = nn.Conv2d(config.image_channels, config.channels, 3, padding=1)
        self.down = nn.Sequential(
            *(
                Level(
                    config,
                    widths[i - 1] if i else config.channels,
                    width,
                    config.blocks,
                    Downsample(width) if i != last else None,
                    "downsample",
                )
                for i, width in enumerate(widths)
            )
        )
        self.mid = Middle(config, widths[-1])
        self.norm_out = _norm(config, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.latent_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.mid(self.down(self.conv_in(x)))
        return self.conv_out(F.silu(self.norm_out(h)))


class Decoder(nn.Module):
    """[B, latent_channels, h, w], after `post_quant_conv` -> image [B, 3, h * factor, w * factor]."""

    def __init__(self, config: VQConfig):
        super().__init__()
        widths, last = (
            [m * config.channels for m in config.multipliers],
            len(config.multipliers) - 1,
        )
        self.conv_in = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.mid = Middle(config, widths[-1])
        self.up = nn.ModuleList(
            Level(
                config,
                widths[min(i + 1, last)],
                width,
                config.blocks + 1,
                Upsample(width) if i else None,
                "upsample",
            )
            for i, width in enumerate(widths)
        )
        self.norm_out = _norm(config, widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.image_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.mid(self.conv_in(x))
        for level in reversed(self.up):  # numbered from the image on
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Codebook(nn.Module):
    """Moves every position of a latent [B, C, h, w] to the nearest of K codes."""

    def __init__(self, codes: int, channels: int):
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)

    def indices(self, latent: torch.Tensor) -> torch.Tensor:
        """int64 [B, h, w]: the code e with the least |e|^2 - 2 x.e, at least in float32.

        One matrix product and an argmin, which every runtime has; its result [B * h * w, K] is the largest tensor of
        the whole decoder (134 MB in float32 for a 64x64 latent and 8192 codes).
        """
        # Sixteen bits do not tell neighbouring codes apart.
        if not latent.is_meta and torch.is_autocast_enabled(latent.device.type):
            with torch.autocast(latent.device.type, enabled=False):
                return self.indices(latent)
        dtype = torch.promote_types(latent.dtype, torch.float32)
        codes = self.embedding.weight.to(dtype)
        x = latent.permute(0, 2, 3, 1).flatten(0, 2).to(dtype)
        distance = F.linear(
            x, -2 * codes, codes.square().sum(dim=1)
        )  # as one product with constants, for NPUs
        return distance.argmin(dim=1).view(latent.shape[0], *latent.shape[2:])

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """The codes [B, C, h, w]; gradients pass straight through to `latent`."""
        codes = self.embedding(self.indices(latent)).permute(0, 3, 1, 2)
        if not (latent.requires_grad and torch.is_grad_enabled()):
            # Also without the rounding of two sums. Channels last, as they come, torch's kernels are less exact.
            return codes.contiguous()
        return latent + (codes - latent).detach()


class VQAutoencoder(nn.Module):
    """Images in [-1, 1] to latents of a quarter of the side and back; the latent has no further scale."""

    def __init__(self, config: VQConfig = VQConfig()):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = Codebook(config.codes, config.latent_channels)
        self.quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in [-1, 1] -> latent [B, 3, H/4, W/4], not quantised. Raises UserError for an odd size."""
        height, width = image.shape[-2:]
        if height % self.config.factor or width % self.config.factor:
            raise UserError(
                f"VQ autoencoder: an image of {width}x{height} cannot be encoded; both sides must be "
                f"multiples of {self.config.factor}"
            )
        return self.quant_conv(self.encoder(image))

    def decode(self, latent: torch.Tensor, quantise: bool = True) -> torch.Tensor:
        """Latent [B, 3, h, w] -> image [B, 3, 4h, 4w] in about [-1, 1]; not clamped.

        Without the codebook the result differs visibly: the decoder was trained on codes.
        """
        return self.decoder(self.post_quant_conv(self.quantize(latent) if quantise else latent))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The reconstruction of an image [B, 3, H, W] in [-1, 1]."""
        return self.decode(self.encode(image))
