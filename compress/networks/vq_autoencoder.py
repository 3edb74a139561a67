"""The VQ autoencoder (f = 4) of ResShift, SinSR and BiMaCoSR.

It is VQGAN's (arXiv 2012.09841), with continuous encoding. Names and shapes of
`VQAutoencoder.state_dict()` are those of the published checkpoint. Written from facts about it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.errors import UserError

EPS = 1e-6


@dataclass(frozen=True)
class VQConfig:
    """The defaults are the published autoencoder.

    Attributes:
        channels: Of the first level.
        multipliers: Channels of a level, from the image on, in multiples of `channels`.
        blocks: Residual blocks a level (one more in the decoder).
        latent_channels: Of the latent.
        codes: Of the codebook.
        image_channels: Of the image.
        groups: Of every GroupNorm.
        attention: Over all positions, in the middle of encoder and decoder.

    Raises:
        UserError: A width cannot be normalised.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 2
    latent_channels: int = 3
    codes: int = 8192
    image_channels: int = 3
    groups: int = 32
    attention: bool = True

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
    """Two convolutions and a residual: [B, C_in, h, w] -> [B, C_out, h, w]."""

    def __init__(self, config: VQConfig, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = _norm(config, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = _norm(config, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C_in, h, w] -> [B, C_out, h, w]."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        if hasattr(self, "nin_shortcut"):
            x = self.nin_shortcut(x)
        return h + x


class Attention(nn.Module):
    """One head over all positions. Time and memory grow with (h * w)^2."""

    def __init__(self, config: VQConfig, channels: int):
        super().__init__()
        self.norm = _norm(config, channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] -> the same."""
        h = self.norm(x)
        # [B, 1, h * w, C]: the ONNX exporter wants the axis of heads.
        q = self.q(h).flatten(2).transpose(1, 2)[:, None]
        k = self.k(h).flatten(2).transpose(1, 2)[:, None]
        v = self.v(h).flatten(2).transpose(1, 2)[:, None]
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(h[:, 0].transpose(1, 2).unflatten(2, x.shape[2:]))


class Middle(nn.Module):
    """Two residual blocks with attention between: [B, C, h, w] -> the same."""

    def __init__(self, config: VQConfig, channels: int):
        super().__init__()
        self.block_1 = ResnetBlock(config, channels, channels)
        self.attn_1 = Attention(config, channels) if config.attention else nn.Identity()
        self.block_2 = ResnetBlock(config, channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] -> the same."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2: [B, C, h, w] -> [B, C, h/2, w/2]."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Half as large; zeros are added at the right and bottom only."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest enlargement and a 3x3 convolution: [B, C, h, w] -> [B, C, 2h, 2w]."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Twice as large."""
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
        first = ResnetBlock(config, in_channels, out_channels)
        rest = [ResnetBlock(config, out_channels, out_channels) for _ in range(blocks - 1)]
        self.block = nn.Sequential(first, *rest)
        self.sample_name = sample_name
        self.register_module(sample_name, sample)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C_in, h, w] -> [B, C_out, *, *]."""
        x = self.block(x)
        sample = getattr(self, self.sample_name)
        if sample is None:
            return x
        return sample(x)


class Encoder(nn.Module):
    """Image [B, 3, H, W] -> [B, latent_channels, H / factor, W / factor], before `quant_conv`."""

    def __init__(self, config: VQConfig):
        super().__init__()
        widths = [multiplier * config.channels for multiplier in config.multipliers]
        self.conv_in = nn.Conv2d(config.image_channels, config.channels, 3, padding=1)
        levels = []
        inputs = config.channels
        for i, width in enumerate(widths):
            smaller = Downsample(width) if i != len(widths) - 1 else None
            levels.append(Level(config, inputs, width, config.blocks, smaller, "downsample"))
            inputs = width
        self.down = nn.Sequential(*levels)
        self.mid = Middle(config, widths[-1])
        self.norm_out = _norm(config, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.latent_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] -> [B, latent_channels, H / factor, W / factor]."""
        h = self.mid(self.down(self.conv_in(x)))
        return self.conv_out(F.silu(self.norm_out(h)))


class Decoder(nn.Module):
    """Latent, after `post_quant_conv`, -> image."""

    def __init__(self, config: VQConfig):
        super().__init__()
        widths = [multiplier * config.channels for multiplier in config.multipliers]
        self.conv_in = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.mid = Middle(config, widths[-1])
        levels = []
        # Numbered from the image on; each takes what the next one, or the middle, puts out.
        for i, (width, inputs) in enumerate(zip(widths, [*widths[1:], widths[-1]], strict=True)):
            larger = Upsample(width) if i else None
            levels.append(Level(config, inputs, width, config.blocks + 1, larger, "upsample"))
        self.up = nn.ModuleList(levels)
        self.norm_out = _norm(config, widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.image_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, latent_channels, h, w] -> [B, 3, h * factor, w * factor]."""
        h = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Codebook(nn.Module):
    """Moves every position of a latent [B, C, h, w] to the nearest of K codes."""

    def __init__(self, codes: int, channels: int):
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)

    def indices(self, latent: torch.Tensor) -> torch.Tensor:
        """int64 [B, h, w]: the code e with the least |e|^2 - 2 x.e, at least in float32.

        It is one matrix product with constants and an argmin, which every runtime has. Its result
        [B * h * w, K] is the largest tensor of the whole decoder (134 MB in float32 for a 64x64
        latent and 8192 codes).
        """
        # Sixteen bits do not tell neighbouring codes apart.
        if not latent.is_meta and torch.is_autocast_enabled(latent.device.type):
            with torch.autocast(latent.device.type, enabled=False):
                return self.indices(latent)
        dtype = torch.promote_types(latent.dtype, torch.float32)
        codes = self.embedding.weight.to(dtype)
        x = latent.permute(0, 2, 3, 1).flatten(0, 2).to(dtype)
        distance = F.linear(x, -2 * codes, codes.square().sum(dim=1))
        return distance.argmin(dim=1).view(latent.shape[0], *latent.shape[2:])

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """The codes [B, C, h, w]; gradients pass straight through to `latent`."""
        codes = self.embedding(self.indices(latent)).permute(0, 3, 1, 2)
        if not (latent.requires_grad and torch.is_grad_enabled()):
            # Also without the rounding of two sums. Channels last, as they come, torch's kernels
            # are less exact.
            return codes.contiguous()
        return latent + (codes - latent).detach()


DEFAULT = VQConfig()


class VQAutoencoder(nn.Module):
    """Images in [-1, 1] to latents of a quarter of the side and back.

    The latent has no further scale.
    """

    def __init__(self, config: VQConfig = DEFAULT):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = Codebook(config.codes, config.latent_channels)
        self.quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in [-1, 1] -> latent [B, 3, H/4, W/4], not quantised.

        Raises:
            UserError: A side is no multiple of `config.factor`.
        """
        height, width = image.shape[-2:]
        if height % self.config.factor or width % self.config.factor:
            raise UserError(
                f"VQ autoencoder: an image of {width}x{height} cannot be encoded; both sides must "
                f"be multiples of {self.config.factor}"
            )
        return self.quant_conv(self.encoder(image))

    def decode(self, latent: torch.Tensor, quantise: bool = True) -> torch.Tensor:
        """Latent [B, 3, h, w] -> image [B, 3, 4h, 4w] in about [-1, 1]; not clamped.

        Without the codebook the result differs visibly: the decoder was trained on codes.
        """
        codes = self.quantize(latent) if quantise else latent
        return self.decoder(self.post_quant_conv(codes))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The reconstruction of an image [B, 3, H, W] in [-1, 1]."""
        return self.decode(self.encode(image))
