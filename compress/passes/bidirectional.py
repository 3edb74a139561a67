"""Bidirectional conditioning for a one-step model with a VAE encoder (Edge-SD-SR, CVPR 2025).

[KNOWN] from the abstract: the low-resolution image conditions both directions, mean and variance of
its code each matter, and UNet and encoder are trained jointly. [REC], our reconstruction:
process/bidirectional.py. The conversion below is ours.
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
    """The encoder of before, with the log-variance beside its mean at the decoder's scale.

    [B, 3, h, w] in [0, 1] -> [mu_L, log sigma_L^2], [B, 2C, h/2, w/2].

    Args:
        before: The encoder; its networks are taken over.
        sigma: sigma_L everywhere, at first.
    """

    @torch.no_grad()
    def __init__(self, before: VAEEncoder, sigma: float):
        nn.Module.__init__(self)
        self.encoder = before.encoder
        self.quant_conv = before.quant_conv
        self.scaling_factor = before.scaling_factor
        self.signal = 1.0
        half = self.quant_conv.out_channels // 2
        self.quant_conv.weight[:half] /= before.signal
        self.quant_conv.bias[:half] /= before.signal
        self.quant_conv.weight[half:] = 0
        self.quant_conv.bias[half:] = 2 * math.log(sigma)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """Encode the enlarged image."""
        mean, log_variance = self.moments(upsample(lr) * 2 - 1)
        return torch.cat([mean * self.scaling_factor, log_variance], dim=1)


class GainDenoiser(CleanDenoiser):
    """f_theta([z_T, mu_L]) = `gain` mu_L + UNet([z_T, mu_L]).

    [B, 2C, h, w] -> the clean latent, [B, C, h, w].

    Args:
        before: The denoiser; its UNet is taken over.
        gain: Of mu_L.
    """

    def __init__(self, before: UNetDenoiser, gain: float):
        super().__init__(before.unet, before.timestep)
        self.context = before.context
        self.gain = gain

    def forward(
        self, latent: torch.Tensor, context: torch.Tensor | None = None, *step: torch.Tensor
    ) -> torch.Tensor:
        """Predict the clean latent from [z_T, mu_L]."""
        clean = super().forward(latent, context, *step)
        if self.gain == 1:
            return clean
        return clean + (self.gain - 1) * latent.chunk(2, dim=1)[1]


@torch.no_grad()
def widen_input(conv: nn.Conv2d, scale: float) -> None:
    """Double the inputs of a convolution, in place.

    The new first half gets weights of 0, the second those of before times `scale`.
    """
    weight = conv.weight.detach() * scale
    widened = torch.cat([torch.zeros_like(weight), weight], dim=1)
    conv.weight = nn.Parameter(widened, requires_grad=conv.weight.requires_grad)
    conv.in_channels *= 2


class BidirectionalConditioning(Pass):
    """Let the encoder emit mu_L and log sigma_L^2, and the UNet predict the clean latent.

    The UNet reads [z_T, mu_L]. The function stays exactly what it was, but for rounding, whatever
    the noise:

    - What the UNet read as z_t, it now reads as mu_L, rescaled.
    - The weights of the new input, z_T = mu_L + sigma_L eps, are 0.
    - The one-step formula x_0 = (z_t - sqrt(1 - abar) eps_theta) / sqrt(abar) goes into conv_out
      and a constant before mu_L. It is 1 where the encoder emitted the signal inside z_t (our
      nano), and 1 / sqrt(abar) = 14.65 where it did not (OSEDiff).

    sigma_L means nothing until `distill` has trained the UNet to use z_T, with `train: [denoiser.*,
    encoder.*]` for joint training, without encoder.* for the ablation.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["bidirectional"] = Field(
        default="bidirectional", alias="pass", description="Names the pass."
    )
    mean: bool = Field(True, description="Whether z_T holds the mean mu_L.")
    variance: bool = Field(True, description="Whether the noise of z_T is scaled by sigma_L.")
    sigma: float = Field(0.3, gt=0, le=1, description="sigma_L everywhere, at first.")
    sigma_min: float = Field(
        0.05, gt=0, le=1, description="Where sigma_L is clamped (process/bidirectional.py)."
    )

    @torch.no_grad()
    def convert(self, model: SRModel) -> None:
        """Change encoder, denoiser and process.

        Raises:
            UserError: The model has no VAE encoder and noise-predicting UNet, or earlier passes
                have replaced the layers that change.
        """
        model.check_plain("pass 'bidirectional'")
        encoder = model.encoder
        denoiser = model.denoiser
        process = model.process
        if (
            not isinstance(process, OneStep)
            or type(encoder) is not VAEEncoder
            or type(denoiser) is not UNetDenoiser
        ):
            raise UserError(
                "pass 'bidirectional': needs a VAE encoder and a UNet that predicts the noise in "
                f"one step, as OSEDiff has; here are a {type(encoder).__name__}, a "
                f"{type(denoiser).__name__} and the process {type(process).__name__}; list it first"
            )
        first = _plain_convolution(denoiser.unet.conv_in, "conv_in")
        last = _plain_convolution(denoiser.unet.conv_out, "conv_out")
        _plain_convolution(encoder.quant_conv, "the encoder's quant_conv")
        channels = first.in_channels
        device = first.weight.device
        widen_input(first, encoder.signal)
        last.weight.mul_(-process.noise / process.signal)
        if last.bias is not None:
            last.bias.mul_(-process.noise / process.signal)
        model.denoiser = GainDenoiser(denoiser, encoder.signal / process.signal)
        model.encoder = MomentsEncoder(encoder, self.sigma)
        with torch.device(device):
            model.process = Bidirectional(channels, self.mean, self.variance, self.sigma_min)
        if device.type != "meta":
            model.process.reset_parameters()
            model.process.to(device)
        model.eval()


def _plain_convolution(layer: nn.Module, name: str) -> nn.Conv2d:
    """`layer`, if no pass has replaced it. Raises UserError with its `name` otherwise."""
    if type(layer) is not nn.Conv2d:
        raise UserError(
            f"pass 'bidirectional': {name} is a {type(layer).__name__}, not a plain convolution; "
            "list bidirectional before the passes that replace layers"
        )
    return layer
