"""A Swin layer of ResShift's UNet: attention in windows that shift, and an MLP.

Names and shapes are those of the published checkpoints. Written from facts about them.
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
    """The defaults are SinSR v1 and ResShift v1 to v3 for x4 super-resolution.

    Attributes:
        channels: Of the first level.
        multipliers: Channels of a level, in multiples of `channels`.
        blocks: Residual blocks a level (one more in the decoder).
        size: Side of the map that the network was designed for.
        attention: Levels with a Swin layer, by the side of their map at `size`.
        embed: Channels inside a Swin layer.
        head_channels: Of one head.
        depth: Blocks a Swin layer; every second one shifts its windows.
        window: Side of a window.
        mlp_ratio: Inner channels of an MLP, in multiples of `embed`.
        mask: Of shifted windows, see `shift_mask`.
        film: Whether the timestep scales and shifts; otherwise it is added.
        in_channels: Of the latent.
        lr_channels: Of the low-resolution image beside the latent; 0 for none.
        out_channels: Of the prediction.
        groups: Of every GroupNorm.

    Raises:
        UserError: Sizes clash.
    """

    channels: int = 160
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    blocks: int = 2
    size: int = 64
    attention: tuple[int, ...] = (64, 32, 16, 8)
    embed: int = 192
    head_channels: int = 32
    depth: int = 2
    window: int = 8
    mlp_ratio: int = 4
    mask: Literal["published", "swin"] = "published"
    film: bool = True
    in_channels: int = 3
    lr_channels: int = 3
    out_channels: int = 3
    groups: int = 32

    def __post_init__(self) -> None:
        odd = [width for width in (self.channels, self.embed) if width % self.groups]
        if odd:
            raise UserError(
                f"Swin UNet: {odd[0]} channels cannot be normalised in {self.groups} groups; "
                "choose a multiple"
            )
        if self.channels % 2 or self.embed % self.head_channels:
            raise UserError(
                f"Swin UNet: channels ({self.channels}) must be even and embed ({self.embed}) a "
                f"multiple of head_channels ({self.head_channels})"
            )
        if self.size % self.multiple:
            raise UserError(
                f"Swin UNet: size {self.size} must be a multiple of {self.multiple}, so that the "
                f"smallest map of {len(self.multipliers)} levels has whole windows of {self.window}"
            )
        if self.mask not in ("published", "swin"):
            raise UserError(f"Swin UNet: mask '{self.mask}' is unknown; choose published or swin")

    @property
    def multiple(self) -> int:
        """What both sides of an input must be a multiple of."""
        return self.window * 2 ** (len(self.multipliers) - 1)


def relative_position_index(window: int) -> torch.Tensor:
    """The row of the bias table for every pair of the n = window^2 positions: int64 [n, n]."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y = rows.flatten()
    x = columns.flatten()
    return (y[:, None] - y + window - 1) * (2 * window - 1) + x[:, None] - x + window - 1


def shift_mask(size: int, window: int, shift: int, kind: str) -> torch.Tensor:
    """What is added to the scores of a square map.

    Args:
        size: Side of the map.
        window: Side of a window.
        shift: By how many positions windows are shifted.
        kind: "swin" parts positions that came from opposite edges of the map. "published" is the
            mask that the released weights were trained with: it parts only the left from the right
            of every window in the last row.

    Returns:
        float32 [windows, n, n]: 0, or MASKED between positions that must not see each other.
    """
    index = torch.arange(size)
    if kind == "published":
        region = (index >= size - window)[:, None] & (index % window >= window - shift)
    else:
        band = (index >= size - window).int() + (index >= size - shift).int()
        region = 3 * band[:, None] + band
    region = windows_of(region[None, None], window).squeeze(-1)  # [windows, n]
    parted = region[:, None, :] != region[:, :, None]
    return torch.zeros(parted.shape).masked_fill(parted, MASKED)


# Of four axes at most: phone runtimes know no more.
def windows_of(x: torch.Tensor, window: int) -> torch.Tensor:
    """[B, C, h, w] -> [B * windows, window^2, C]."""
    batch, channels, _, width = x.shape
    # [B * C * rows, columns, window, window]
    x = x.reshape(-1, window, width // window, window).transpose(1, 2)
    x = x.reshape(batch, channels, -1, window * window).permute(0, 2, 3, 1)
    return x.reshape(-1, window * window, channels)


def merge_windows(x: torch.Tensor, rows: int, columns: int, window: int) -> torch.Tensor:
    """The inverse of `windows_of` for a map of rows x columns windows."""
    channels = x.shape[2]
    x = x.reshape(-1, rows * columns, window * window, channels).permute(0, 3, 1, 2)
    # [B * C * rows, window, columns, window]
    x = x.reshape(-1, columns, window, window).transpose(1, 2)
    return x.reshape(-1, channels, rows * window, columns * window)


class WindowAttention(nn.Module):
    """Attention inside windows with a learned bias for every relative position.

    [B * windows, n, C] -> the same.
    """

    relative_position_index: torch.Tensor

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
        """Attention of x [B * windows, n, C].

        `mask` [windows, n, n] is added to the scores of every head.
        """
        channels = x.shape[2]
        joined = self.qkv(x)
        q = self._heads(joined[:, :, :channels])
        k = self._heads(joined[:, :, channels : 2 * channels])
        v = self._heads(joined[:, :, 2 * channels : 3 * channels])
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table.index_select(
            0, self.relative_position_index.flatten()
        )
        scores = scores + bias.reshape(*self.relative_position_index.shape, -1).permute(2, 0, 1)
        if mask is not None:
            scores = scores + mask.repeat(len(x) // len(mask), 1, 1)[:, None]
        return self.proj((self.softmax(scores) @ v).transpose(1, 2).flatten(2))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """[B * windows, n, C] -> [B * windows, heads, n, d]."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Mlp(nn.Module):
    """Two 1x1 convolutions with a GELU between: [B, C, h, w] -> the same."""

    def __init__(self, channels: int, ratio: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels * ratio, 1)
        self.fc2 = nn.Conv2d(channels * ratio, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] -> the same."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Window attention and MLP on [B, C, h, w], each on a GroupNorm and with a residual.

    Whether windows shift depends on the side `size` of the map the network was designed for, not on
    the map that comes: at one window a side they never do.
    """

    attn_mask: torch.Tensor

    def __init__(self, config: SwinUNetConfig, size: int, shifted: bool):
        super().__init__()
        self.window = config.window
        self.shift = config.window // 2 if shifted and size > config.window else 0
        self.size = size
        self.kind = config.mask
        self.register_buffer("attn_mask", None)
        self.norm1 = nn.GroupNorm(config.groups, config.embed)
        heads = config.embed // config.head_channels
        self.attn = WindowAttention(config.embed, heads, config.window)
        self.norm2 = nn.GroupNorm(config.groups, config.embed)
        self.mlp = Mlp(config.embed, config.mlp_ratio)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The mask that follows from the sizes."""
        if self.shift:
            mask = shift_mask(self.size, self.window, self.shift, self.kind)
            self.attn_mask = mask.to(self.norm1.weight.device)

    def compact(self) -> None:
        """Store no more than is read.

        That is the four windows in the corners of the mask, and positions in 32 bits.
        """
        self.attn.relative_position_index = self.attn.relative_position_index.int()
        if self.shift:
            side = math.isqrt(self.attn_mask.shape[0])
            corners = self.attn_mask.unflatten(0, (side, side))[:: side - 1, :: side - 1]
            self.attn_mask = corners.flatten(0, 1).clone()

    def mask(self, rows: int, columns: int) -> torch.Tensor:
        """The shift mask [rows * columns, n, n] of a map of rows x columns windows.

        Windows differ only in whether they lie in the last row and the last column, so the mask of
        any map is made of the corners of the one for the designed size, with no branch on values or
        on the size.
        """
        side = math.isqrt(self.attn_mask.shape[0])
        mask = self.attn_mask.unflatten(0, (side, side))
        mask = torch.cat([mask[:1].expand(rows - 1, -1, -1, -1), mask[-1:]])
        mask = torch.cat([mask[:, :1].expand(-1, columns - 1, -1, -1), mask[:, -1:]], dim=1)
        return mask.flatten(0, 1)

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        """Window attention on a map [B, C, h, w]."""
        rows = x.shape[2] // self.window
        columns = x.shape[3] // self.window
        if not self.shift:
            return merge_windows(
                self.attn(windows_of(x, self.window), None), rows, columns, self.window
            )
        x = windows_of(x.roll((-self.shift, -self.shift), dims=(2, 3)), self.window)
        x = merge_windows(self.attn(x, self.mask(rows, columns)), rows, columns, self.window)
        return x.roll((self.shift, self.shift), dims=(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] -> the same."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Projection(nn.Module):
    """A 1x1 convolution under the name that the checkpoints give it."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C_in, h, w] -> [B, C_out, h, w]."""
        return self.proj(x)


class SwinLayer(nn.Module):
    """`depth` Swin blocks between two projections, without a residual around them."""

    def __init__(self, config: SwinUNetConfig, channels: int, size: int):
        super().__init__()
        self.patch_embed = Projection(channels, config.embed)
        self.patch_unembed = Projection(config.embed, channels)
        blocks = [SwinBlock(config, size, shifted=i % 2 == 1) for i in range(config.depth)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, channels, h, w] -> the same."""
        return self.patch_unembed(self.blocks(self.patch_embed(x)))
