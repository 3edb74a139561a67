"""AdaDiffSR's two small networks: one that says what a step gained, one that injects the input.

The paper says of the regressor "multiple convolutions and global average pooling", trained by L2 on
a frozen diffusion, and of the injection a small CNN that makes alpha and beta [doc]. Inputs, widths
and places are our choice [REC], as the marks in the docstrings say.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

SINUSOID = 64  # values that a timestep is told as [REC]
PERIOD = 10_000.0  # of the slowest of them
# [REC] widths of the regressor's convolutions: at full size 2,182,598 parameters with four
# channels and six metrics, beside the paper's 2.19M [doc]. A nano has an eighth.
WIDTHS = (64, 128, 256, 256, 512)
NANO_WIDTHS = (16, 16, 32, 32, 64)
Width = Literal["small", "full"]
STRIDES = (2, 2, 2, 1, 1)
INJECTION_WIDTH = 64  # [REC]


def widths(size: Width) -> tuple[int, ...]:
    """Widths of a regressor's convolutions."""
    return WIDTHS if size == "full" else NANO_WIDTHS


def sinusoid(timesteps: torch.Tensor) -> torch.Tensor:
    """[B, SINUSOID] of int64 [B]: cosines, then sines, of falling frequencies."""
    half = SINUSOID // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps.float()[:, None] * torch.exp(-math.log(PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class StepRegressor(nn.Module):
    """Maps two clean latents of a walk, the input's latent and the timestep to a gain a metric.

    f_i and f_(i-1) are the clean latents that the calls at two neighbouring places of the walk
    tell, because these are what a walk that leaves returns [REC; the paper has "the latent"].

    Args:
        channels: C of the latents.
        metrics: How many metrics it predicts.
        widths: Of its convolutions.
    """

    def __init__(self, channels: int, metrics: int, widths: tuple[int, ...] = WIDTHS):
        super().__init__()
        self.channels = channels
        self.metrics = metrics
        layers = []
        before = 3 * channels
        for width, stride in zip(widths, STRIDES, strict=True):
            layers.append(nn.Conv2d(before, width, 3, stride, padding=1))
            before = width
        self.convs = nn.ModuleList(layers)
        self.time = nn.Linear(SINUSOID, before)
        self.head = nn.Linear(before, metrics)

    @torch.no_grad()
    def start(self) -> None:
        """Draw the values that a training begins with."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()

    def forward(
        self, now: torch.Tensor, before: torch.Tensor, given: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """What each metric M rose by, [B, metrics].

        Args:
            now: f_i [B, C, h, w].
            before: f_(i-1), likewise.
            given: o, the latent of the input, likewise.
            timesteps: Of f_i, int64 [B].
        """
        x = torch.cat([now, before, given], dim=1)
        for conv in self.convs:
            x = F.silu(conv(x))
        pooled = x.mean((2, 3))
        return self.head(pooled + self.time(sinusoid(timesteps).to(pooled.dtype)))


class Injection(nn.Module):
    """Progressive feature injection: o_hat = alpha o + beta; alpha, beta = phi(o, gains) [doc].

    phi sees o and both gains as constant channels behind it; its last layer begins at zero, so that
    o_hat = o [REC].

    Args:
        channels: C of the latent.
        width: Of its convolutions.
    """

    def __init__(self, channels: int, width: int = INJECTION_WIDTH):
        super().__init__()
        self.conv1 = nn.Conv2d(channels + 2, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_out = nn.Conv2d(width, 2 * channels, 3, padding=1)
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        """Let it change nothing: alpha = 1, beta = 0."""
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, given: torch.Tensor, fr: torch.Tensor, nr: torch.Tensor) -> torch.Tensor:
        """o_hat [B, C, h, w] of o [B, C, h, w] and the gains [B] each."""
        x = F.silu(self.conv1(with_gains(given, fr, nr)))
        x = F.silu(self.conv2(x))
        more, beta = self.conv_out(x).chunk(2, dim=1)
        return modulated(given, 1 + more, beta)


def with_gains(given: torch.Tensor, fr: torch.Tensor, nr: torch.Tensor) -> torch.Tensor:
    """[B, C + 2, h, w]: o, and behind it both gains [B] as constant channels [REC]."""
    constant = torch.stack([fr, nr], dim=1)[:, :, None, None].to(given)
    return torch.cat([given, constant.expand(-1, -1, *given.shape[-2:])], dim=1)


def modulated(given: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """o_hat = alpha * o + beta [doc]."""
    return alpha * given + beta
