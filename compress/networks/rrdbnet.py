"""Real-ESRGAN's network (arXiv 2107.10833), which DoSSR has as its preprocessor.

Names and shapes of `RRDBNet.state_dict()` are those of the published checkpoints. Written from
facts about them.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from compress.networks.released_file import fill, released_state

RRDBNET = "Real-ESRGAN's RealESRNet_x4plus.pth or RealESRGAN_x4plus.pth"
SLOPE = 0.2  # of LeakyReLU below 0
RESIDUAL = 0.2  # what a block adds to its input is made smaller by
CONVOLUTIONS = 5  # of a dense block
DENSE = 3  # dense blocks of a block


@dataclass(frozen=True)
class RRDBConfig:
    """Sizes of the network; the defaults are the published ones.

    Attributes:
        channels: Between the blocks.
        blocks: How many there are.
        growth: Channels that each convolution of a dense block adds.
    """

    channels: int = 64
    blocks: int = 23
    growth: int = 32


PUBLISHED = RRDBConfig()


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class DenseBlock(nn.Module):
    """Convolutions that each see the input and what all before them made."""

    def __init__(self, config: RRDBConfig):
        super().__init__()
        for i in range(CONVOLUTIONS):
            outputs = config.channels if i == CONVOLUTIONS - 1 else config.growth
            conv = _convolution(config.channels + i * config.growth, outputs)
            self.add_module(f"conv{i + 1}", conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] -> the same shape."""
        *convolutions, last = self.children()
        seen = x
        for conv in convolutions:
            seen = torch.cat([seen, F.leaky_relu(conv(seen), SLOPE)], dim=1)
        return x + RESIDUAL * last(seen)


class ResidualBlock(nn.Module):
    """Dense blocks in a row, and a residual around them."""

    def __init__(self, config: RRDBConfig):
        super().__init__()
        for i in range(DENSE):
            self.add_module(f"rdb{i + 1}", DenseBlock(config))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] -> the same shape."""
        y = x
        for block in self.children():
            y = block(y)
        return x + RESIDUAL * y


class RRDBNet(nn.Module):
    """An image four times as large.

    Args:
        config: The sizes.
    """

    def __init__(self, config: RRDBConfig = PUBLISHED):
        super().__init__()
        channels = config.channels
        self.conv_first = _convolution(3, channels)
        self.body = nn.Sequential(*(ResidualBlock(config) for _ in range(config.blocks)))
        self.conv_body = _convolution(channels, channels)
        self.conv_up1 = _convolution(channels, channels)
        self.conv_up2 = _convolution(channels, channels)
        self.conv_hr = _convolution(channels, channels)
        self.conv_last = _convolution(channels, 3)

    def unclamped(self, lr: torch.Tensor) -> torch.Tensor:
        """[B, 3, h, w] in [0, 1] -> [B, 3, 4h, 4w] about [0, 1]."""
        x = self.conv_first(lr)
        x = x + self.conv_body(self.body(x))
        for conv in (self.conv_up1, self.conv_up2):
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=2, mode="nearest")), SLOPE)
        return self.conv_last(F.leaky_relu(self.conv_hr(x), SLOPE))

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """[B, 3, h, w] in [0, 1] -> [B, 3, 4h, 4w] in [0, 1], clamped as DoSSR does."""
        return self.unclamped(lr).clamp(0, 1)


def load_rrdbnet(network: RRDBNet, path: str, key: str = "preprocessor") -> None:
    """Fill a network, which may be on the meta device, with a file of Real-ESRGAN.

    Args:
        network: Of the published sizes.
        path: The file.
        key: The recipe's key that names it.

    Raises:
        UserError: The file is wrong or incomplete; the first names that do not fit are told.
    """
    fill([network], released_state(path, key, RRDBNET), f"{key}: {path}", RRDBNET)
