"""Bidirectional conditioning for a one-step model with a VAE encoder (Edge-SD-SR, CVPR 2025).

[KNOWN] from the abstract: the LR image conditions both directions, mean and variance of its code each matter, and UNet
and LR encoder are trained jointly. [REC], our reconstruction: process/bidirectional.py. The conversion below is ours.
"""

import math
from typing import Literal

import torch
from pydantic import ConfigDict, Field
from torch import nn

from compress.core.errors import UserError
from compress.model.passes import Pass
from compress.model.sr_model import SRModel
from compress.networks.edge import CleanDenoiser
from compress.networks.latent_diffusion import UNetDenoiser, VAEEncoder
from compress.process.bidirectional import Bidirectional
from compress.process.one_step import OneStep
from compress.process.resample import upsample


class MomentsEncoder(VAEEncoder):
    """The encoder of before, its mean at the decoder's scale and the log-variance beside it: [B, 3, h, w] in [0, 1] ->
    [mu_L, log sigma_L^2], [B, 2C, h/2, w/2]."""

    @torch.no_grad()
    def __init__(self, before: VAEEncoder, sigma: float):
        nn.Module.__init__(self)
        self.encoder, self.quant_conv = before.encoder, before.quant_conv
        self.scaling_factor, self.signal = before.scaling_factor, 1.0
        half = self.quant_conv.out_channels // 2
        self.quant_conv.weight[:half] /= before.signal
        self.quant_conv.bias[:half] /= before.signal
        self.quant_conv.weight[half:] = 0
        self.quant_conv.bias[half:] = 2 * math.log(sigma)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        mean, log_variance = self.moments(upsample(lr) * 2 - 1)
        return torch.cat([mean * self.scaling_factor, log_variance], dim=1)


class GainDenoiser(CleanDenoiser):
    """f_theta([z_T, mu_L]) = `gain` mu_L + UNet([z_T, mu_L]), the clean latent [B, C, h, w] from [B, 2C, h, w]."""

    def __init__(self, before: UNetDenoiser, gain: float):
        super().__init__(before.unet, before.timestep)
        self.context, self.gain = before.context, gain

    def forward(
        self,
        latent: torch.Tensor,
        context: torch.Tensor | None = None,
        timesteps: torch.Tensor | None = None,
    ) -> torch.Tensor:
        clean = super().forward(latent, context, timesteps)
        return clean if self.gain == 1 else clean + (self.gain - 1) * latent.chunk(2, dim=1)[1]


@torch.no_grad()
def widen_input(conv: nn.Conv2d, scale: float) -> None:
    """Twice the inputs: the new first half gets weights of 0, the second those of before times `scale`."""
    weight = conv.weight.detach() * scale
    conv.weight = nn.Parameter(
        torch.cat([torch.zeros_like(weight), weight], dim=1),
        requires_grad=conv.weight.requires_grad,
    )
    conv.in_channels *= 2


class BidirectionalConditioning(Pass):
    """Let the encoder emit mu_L and log sigma_L^2, and the UNet predict the clean latent from [z_T, mu_L].

    The function stays exactly what it was, but for rounding, whatever the noise: what the UNet read as z_t, it now
    reads as mu_L, rescaled; the weights of the new input, z_T = mu_L + sigma_L eps, are 0; and the one-step formula
    x_0 = (z_t - sqrt(1 - abar) eps_theta) / sqrt(abar) goes into conv_out and a constant before mu_L, which is 1 where
    the encoder emitted the signal inside z_t (our nano) and 1 / sqrt(abar) = 14.65 where it did not (OSEDiff).
    sigma_L is `sigma` everywhere. It means nothing until `distill` has trained the UNet to use z_T, with
    `train: [denoiser.*, encoder.*]` for joint training, without encoder.* for the ablation.

    `mean` and `variance` switch off parts of z_T; `sigma_min` is where sigma_L is clamped (process/bidirectional.py).
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["bidirectional"] = Field(default="bidirectional", alias="pass")
    mean: bool = True
    variance: bool = True
    sigma: float = Field(0.3, gt=0, le=1)
    sigma_min: float = Field(0.05, gt=0, le=1)

    @torch.no_grad()
    def convert(self, model: SRModel) -> None:
        encoder, denoiser, process = model.encoder, model.denoiser, model.process
        if (
            not isinstance(process, OneStep)
            or type(encoder) is not VAEEncoder
            or type(denoiser) is not UNetDenoiser
        ):
            raise UserError(
                "pass 'bidirectional': needs a VAE encoder and a UNet that predicts the noise in one step, "
                f"as OSEDiff has; here are a {type(encoder).__name__}, a {type(denoiser).__name__} and the "
                f"process {type(process).__name__}; list it first"
            )
        first, last = denoiser.unet.conv_in, denoiser.unet.conv_out
        for name, layer in (
            ("conv_in", first),
            ("conv_out", last),
            ("the encoder's quant_conv", encoder.quant_conv),
        ):
            if type(layer) is not nn.Conv2d:
                raise UserError(
                    f"pass 'bidirectional': {name} is a {type(layer).__name__}, not a plain convolution; "
                    "list bidirectional before the passes that replace layers"
                )
        channels, device = first.in_channels, first.weight.device
        widen_input(first, encoder.signal)
        last.weight *= -process.noise / process.signal
        last.bias *= -process.noise / process.signal
        model.denoiser = GainDenoiser(denoiser, encoder.signal / process.signal)
        model.encoder = MomentsEncoder(encoder, self.sigma)
        with torch.device(device):
            model.process = Bidirectional(channels, self.mean, self.variance, self.sigma_min)
        if device.type != "meta":
            model.process.reset_parameters()
            model.process.to(device)
        model.eval()
