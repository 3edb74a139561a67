"""The denoiser of ResShift (arXiv 2307.12348), SinSR (2311.14760) and BiMaCoSR (2502.00333): a UNet with Swin layers.

Names and shapes of `SwinUNet.state_dict()` are those of the published checkpoints. Written from facts about them.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.errors import UserError

MASKED = -100.0


@dataclass(frozen=True)
class SwinUNetConfig:
    """The defaults are SinSR v1 and ResShift v1 to v3 for x4 super-resolution. Raises UserError where sizes clash."""

    channels: int = 160
    multipliers: tuple[int, ...] = (1, 2, 2, 4)  # channels of a level, in multiples of `channels`
    blocks: int = 2  # residual blocks a level (one more in the decoder)
    size: int = 64  # side of the map that the network was designed for
    attention: tuple[int, ...] = (
        64,
        32,
        16,
        8,
    )  # levels with a Swin layer, by the side of their map at `size`
    embed: int = 192  # channels inside a Swin layer
    head_channels: int = 32
    depth: int = 2  # blocks a Swin layer; every second one shifts its windows
    window: int = 8
    mlp_ratio: int = 4
    mask: Literal["published", "swin"] = "published"  # of shifted windows, see `shift_mask`
    film: bool = True  # the timestep scales and shifts; otherwise it is added
    in_channels: int = 3
    lr_channels: int = 3  # of the low-resolution image beside the latent; 0 for none
    out_channels: int = 3
    groups: int = 32  # of every GroupNorm

    def __post_init__(self) -> None:
        odd = [width for width in (self.channels, self.embed) if width % self.groups]
        if odd:
            raise UserError(
                f"Swin UNet: {odd[0]} channels cannot be normalised in {self.groups} groups; choose a "
                "multiple"
            )
        if self.channels % 2 or self.embed % self.head_channels:
            raise UserError(
                f"Swin UNet: channels ({self.channels}) must be even and embed ({self.embed}) a multiple "
                f"of head_channels ({self.head_channels})"
            )
        if self.size % self.multiple:
            raise UserError(
                f"Swin UNet: size {self.size} must be a multiple of {self.multiple}, so that the smallest "
                f"map of {len(self.multipliers)} levels has whole windows of {self.window}"
            )
        if self.mask not in ("published", "swin"):
            raise UserError(f"Swin UNet: mask '{self.mask}' is unknown; choose published or swin")

    @property
    def multiple(self) -> int:
        """What both sides of an input must be a multiple of."""
        return self.window * 2 ** (len(self.multipliers) - 1)


def timestep_embedding(timesteps: torch.Tensor, channels: int) -> torch.Tensor:
    """Integers [B] -> [B, channels]: cosines, then sines, of periods from 2 pi to 2 pi * 10000."""
    half = channels // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps[:, None].float() * torch.exp(-math.log(10000) / half * steps)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def relative_position_index(window: int) -> torch.Tensor:
    """int64 [n, n], n = window^2: the row of the bias table for every pair of positions in a window."""
    y, x = (
        axis.flatten()
        for axis in torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    )
    return (y[:, None] - y + window - 1) * (2 * window - 1) + x[:, None] - x + window - 1


def shift_mask(size: int, window: int, shift: int, kind: str) -> torch.Tensor:
    """float32 [windows, n, n] for a square map of `size`: 0, or -100 between positions that must not see each other.

    "swin" parts positions that came from opposite edges of the map. "published" is the mask that the released weights
    were trained with: it parts only the left from the right of every window in the last row.
    """
    index = torch.arange(size)
    if kind == "published":
        region = (index >= size - window)[:, None] & (index % window >= window - shift)
    else:
        band = (index >= size - window).int() + (index >= size - shift).int()
        region = 3 * band[:, None] + band
    region = _windows(region[None, None], window).squeeze(-1)  # [windows, n]
    parted = region[:, None, :] != region[:, :, None]
    return torch.zeros(parted.shape).masked_fill(parted, MASKED)


# Of four axes at most: phone runtimes know no more.
def _windows(x: torch.Tensor, window: int) -> torch.Tensor:
    """[B, C, h, w] -> [B * windows, window^2, C]."""
    batch, channels, height, width = x.shape
    x = x.reshape(-1, window, width // window, window).transpose(
        1, 2
    )  # [B * C * rows, columns, window, window]
    return (
        x.reshape(batch, channels, -1, window * window)
        .permute(0, 2, 3, 1)
        .reshape(-1, window * window, channels)
    )


def _merge(x: torch.Tensor, rows: int, columns: int, window: int) -> torch.Tensor:
    """The inverse of `_windows` for a map of rows x columns windows."""
    channels = x.shape[2]
    x = x.reshape(-1, rows * columns, window * window, channels).permute(0, 3, 1, 2)
    x = x.reshape(-1, columns, window, window).transpose(
        1, 2
    )  # [B * C * rows, window, columns, window]
    return x.reshape(-1, channels, rows * window, columns * window)


class WindowAttention(nn.Module):
    """Attention inside windows with a learned bias for every relative position: [B * windows, n, C] -> the same."""

    def __init__(self, channels: int, heads: int, window: int):
        super().__init__()
        self.heads = heads
        self.window = window
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", None)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.softmax = nn.Softmax(dim=-1)
        self.proj = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The start of training: no bias, and the index that follows from the window."""
        device = self.relative_position_bias_table.device
        nn.init.zeros_(self.relative_position_bias_table)
        self.relative_position_index = relative_position_index(self.window).to(device)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`mask` [windows, n, n] is added to the scores of every head."""
        joined, channels = self.qkv(x), x.shape[2]
        q, k, v = (
            joined[:, :, i : i + channels].reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for i in range(0, 3 * channels, channels)
        )  # [B * windows, heads, n, d] each
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table.index_select(
            0, self.relative_position_index.flatten()
        )
        scores = scores + bias.reshape(*self.relative_position_index.shape, -1).permute(2, 0, 1)
        if mask is not None:
            scores = scores + mask.repeat(len(x) // len(mask), 1, 1)[:, None]
        return self.proj((self.softmax(scores) @ v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, channels: int, ratio: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels * ratio, 1)
        self.fc2 = nn.Conv2d(channels * ratio, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Window attention and MLP on [B, C, h, w], each on a GroupNorm and with a residual.

    Whether windows shift depends on the side `size` of the map the network was designed for, not on the map that
    comes: at one window a side they never do.
    """

    def __init__(self, config: SwinUNetConfig, size: int, shifted: bool):
        super().__init__()
        self.window = config.window
        self.shift = config.window // 2 if shifted and size > config.window else 0
        self.size, self.kind = size, config.mask
        self.register_buffer("attn_mask", None)
        self.norm1 = nn.GroupNorm(config.groups, config.embed)
        self.attn = WindowAttention(
            config.embed, config.embed // config.head_channels, config.window
        )
        self.norm2 = nn.GroupNorm(config.groups, config.embed)
        self.mlp = Mlp(config.embed, config.mlp_ratio)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The mask that follows from the sizes."""
        if self.shift:
            self.attn_mask = shift_mask(self.size, self.window, self.shift, self.kind).to(
                self.norm1.weight.device
            )

    def compact(self) -> None:
        """Store no more than is read: of the mask the four windows in the corners, positions in 32 bits."""
        self.attn.relative_position_index = self.attn.relative_position_index.int()
        if self.shift:
            side = math.isqrt(self.attn_mask.shape[0])
            corners = self.attn_mask.unflatten(0, (side, side))[:: side - 1, :: side - 1]
            self.attn_mask = corners.flatten(0, 1).clone()

    def mask(self, rows: int, columns: int) -> torch.Tensor:
        """The shift mask [rows * columns, n, n] of a map of rows x columns windows.

        Windows differ only in whether they lie in the last row and the last column, so the mask of any map is made
        of the corners of the one for the designed size, with no branch on values or on the size.
        """
        side = math.isqrt(self.attn_mask.shape[0])
        mask = self.attn_mask.unflatten(0, (side, side))
        mask = torch.cat([mask[:1].expand(rows - 1, -1, -1, -1), mask[-1:]])
        return torch.cat(
            [mask[:, :1].expand(-1, columns - 1, -1, -1), mask[:, -1:]], dim=1
        ).flatten(0, 1)

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        rows, columns = x.shape[2] // self.window, x.shape[3] // self.window
        if not self.shift:
            return _merge(self.attn(_windows(x, self.window), None), rows, columns, self.window)
        x = _windows(x.roll((-self.shift, -self.shift), dims=(2, 3)), self.window)
        x = _merge(self.attn(x, self.mask(rows, columns)), rows, columns, self.window)
        return x.roll((self.shift, self.shift), dims=(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Projection(nn.Module):
    """A 1x1 convolution under the name that the checkpoints give it."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x)


class SwinLayer(nn.Module):
    """`depth` Swin blocks between two projections: [B, channels, h, w] -> the same, without a residual around it."""

    def __init__(self, config: SwinUNetConfig, channels: int, size: int):
        super().__init__()
        self.patch_embed = Projection(channels, config.embed)
        self.patch_unembed = Projection(config.embed, channels)
        self.blocks = nn.Sequential(
            *(SwinBlock(config, size, shifted=i % 2 == 1) for i in range(config.depth))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.patch_unembed(self.blocks(self.patch_embed(x)))


class ResBlock(nn.Module):
    """Two convolutions with the timestep between them: [B, C_in, h, w], [B, 4 * channels] -> [B, C_out, h, w]."""

    def __init__(self, config: SwinUNetConfig, in_channels: int, out_channels: int):
        super().__init__()
        self.film = config.film
        self.in_layers = nn.Sequential(
            nn.GroupNorm(config.groups, in_channels),
            nn.SiLU(),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(4 * config.channels, out_channels * (2 if config.film else 1))
        )
        # The identity stands where the authors have a dropout of 0: the convolution keeps its number.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(config.groups, out_channels),
            nn.SiLU(),
            nn.Identity(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.skip_connection = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, x: torch.Tensor, embedding: torch.Tensor | None) -> torch.Tensor:
        norm, rest = self.out_layers[0], self.out_layers[1:]
        h = self.in_layers(x)
        if self.emb_layers is None:  # folded, see passes/fold_film.py
            return self.skip_connection(x) + rest(norm(h))
        time = self.emb_layers(embedding)[..., None, None]
        if self.film:
            scale, shift = time.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + time)
        return self.skip_connection(x) + rest(h)


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stage(nn.Sequential):
    """Layers in a row, of which the residual blocks get the timestep too."""

    def forward(self, x: torch.Tensor, embedding: torch.Tensor | None) -> torch.Tensor:
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResBlock) else layer(x)
        return x


class SwinUNet(nn.Module):
    """Predicts the clean latent from a noisy one, the timestep and the low-resolution image."""

    def __init__(self, config: SwinUNetConfig = SwinUNetConfig()):
        super().__init__()
        self.config = config
        base, width = config.channels, config.channels

        def stage(in_channels: int, out_channels: int, level: int, first: bool) -> Stage:
            size = config.size >> level
            swin = (
                [SwinLayer(config, out_channels, size)]
                if first and size in config.attention
                else []
            )
            return Stage(ResBlock(config, in_channels, out_channels), *swin)

        self.time_embed = nn.Sequential(
            nn.Linear(base, 4 * base), nn.SiLU(), nn.Linear(4 * base, 4 * base)
        )
        self.input_blocks = nn.ModuleList(
            [Stage(nn.Conv2d(config.in_channels + config.lr_channels, base, 3, padding=1))]
        )
        skips, last = [width], len(config.multipliers) - 1
        for level, multiplier in enumerate(config.multipliers):
            for i in range(config.blocks):
                self.input_blocks.append(stage(width, multiplier * base, level, first=i == 0))
                width = multiplier * base
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
                block = stage(
                    width + skips.pop(), config.multipliers[level] * base, level, first=i == 0
                )
                width = config.multipliers[level] * base
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
        """[B, 3, h, w], integers [B] or [1], [B, 3, h, w] -> the clean latent [B, 3, h, w].

        `x_t` is the state after the input normaliser (`ResidualShift.network_input`), `lr` the low-resolution image
        in [-1, 1], as large as the latent: both have a quarter of the result's side. Raises UserError when a side is
        no multiple of `config.multiple` or `lr` has another size.
        """
        height, width = x_t.shape[-2:]
        if height % self.config.multiple or width % self.config.multiple:
            raise UserError(
                f"Swin UNet: a map of {width}x{height} does not divide into windows; both sides must be "
                f"multiples of {self.config.multiple}"
            )
        if lr is not None:
            if lr.shape[-2:] != x_t.shape[-2:]:
                raise UserError(
                    f"Swin UNet: the low-resolution image is {lr.shape[-1]}x{lr.shape[-2]} and the latent "
                    f"{width}x{height}; both must have one size"
                )
            x_t = torch.cat([x_t, lr], dim=1)
        embedding = None
        if self.time_embed is not None:
            embedding = self.time_embed(
                timestep_embedding(timesteps, self.config.channels).to(x_t.dtype)
            )
        h, skips = x_t, []
        for block in self.input_blocks:
            h = block(h, embedding)
            skips.append(h)
        h = self.middle_block(h, embedding)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        return self.out(h)
