"""AdcSR's encoder swap (arXiv 2411.13383): the LR image itself, rearranged, in place of bicubic upsampling and VAE."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from torch import nn

from compress.core.errors import UserError
from compress.model.passes import Pass
from compress.model.sr_model import SRModel
from compress.networks.latent_diffusion import UNetDenoiser
from compress.process.bidirectional import Bidirectional
from compress.process.direct import Direct


class PixelUnshuffleEncoder(nn.Module):
    """[B, 3, h, w] in [0, 1] -> [B, 3 * factor^2, h / factor, w / factor] in [-1, 1]. No parameters."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return F.pixel_unshuffle(lr * 2 - 1, self.factor)


def repeat_inputs(conv: nn.Conv2d, count: int) -> None:
    """Widen or narrow a convolution to `count` inputs: input i takes the weights of input i mod (inputs before)."""
    index = torch.arange(count, device=conv.weight.device) % conv.in_channels
    conv.weight = nn.Parameter(
        conv.weight.detach()[:, index].contiguous(), requires_grad=conv.weight.requires_grad
    )
    conv.in_channels = count


class EncoderSwap(Pass):
    """Replace the encoder by PixelUnshuffle and widen the UNet's first convolution by repeating its weights, undivided
    as in AdcSR. The UNet then predicts the clean latent itself, because there is no noisy latent to subtract from.

    The result must be trained: the UNet has never seen pixels.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["encoder_swap"] = Field(default="encoder_swap", alias="pass")

    @torch.no_grad()
    def convert(self, model: SRModel) -> None:
        factor = round(1 / model.latent_ratio)
        if isinstance(model.process, Bidirectional):
            raise UserError(
                "pass 'encoder_swap': the model's denoiser starts from the mean and variance of its encoder, "
                "which PixelUnshuffle does not give; leave the pass out for Edge-SD-SR and bidirectional"
            )
        if not isinstance(model.denoiser, UNetDenoiser) or factor != 1 / model.latent_ratio:
            raise UserError(
                "pass 'encoder_swap': needs a UNet denoiser on a latent that is a whole number of times "
                f"smaller than the LR image; here it is {1 / model.latent_ratio} times, and the denoiser a "
                f"{type(model.denoiser).__name__}"
            )
        conv = model.denoiser.unet.conv_in
        if type(conv) is not nn.Conv2d:
            raise UserError(
                f"pass 'encoder_swap': the UNet's conv_in is a {type(conv).__name__}; list encoder_swap "
                "before the passes that replace layers"
            )
        model.encoder = PixelUnshuffleEncoder(factor)
        repeat_inputs(conv, 3 * factor**2)
        model.process = Direct()
