"""The two small networks of a router: one that upscales tiles, one that says what a path gains."""

import torch
import torch.nn.functional as F
from torch import nn

from compress.process.resample import SCALE, upsample

PATHS = ("bicubic", "cnn", "diffusion")  # in the order of their cost
GREY = 0.5  # the middle of the range of pixels, which the networks are centred at


class TileCNN(nn.Module):
    """Maps [B, 3, h, w] in [0, 1] to [B, 3, 4h, 4w].

    As ESPCN (arXiv 1609.05158), on top of bicubic and a little deeper.
    """

    def __init__(self, width: int = 24, depth: int = 3):
        super().__init__()
        self.conv_in = nn.Conv2d(3, width, 5, padding=2)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.conv_out = nn.Conv2d(width, 3 * SCALE**2, 3, padding=1)
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        """Let it be bicubic: its last convolution gives 0."""
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """Upscale [B, 3, h, w] in [0, 1] four times; the result may leave [0, 1]."""
        x = F.relu(self.conv_in(lr - GREY))
        for conv in self.convs:
            x = F.relu(conv(x))
        return upsample(lr) + F.pixel_shuffle(self.conv_out(x), SCALE)


class GainRegressor(nn.Module):
    """Maps [B, 3, h, w] in [0, 1], of any size from 16, to [B, 2].

    These are what CNN and diffusion add to the quality R of the path before (-LPIPS, or PSNR /
    10 dB). The gain is their tanh.
    """

    def __init__(self, width: int = 8):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.head = nn.Linear(4 * width, len(PATHS) - 1)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """What each path after the first adds, [B, 2], for [B, 3, h, w] in [0, 1]."""
        x = F.relu(self.conv1(lr - GREY))
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv3(x))
        return self.head(x.mean((2, 3)))
