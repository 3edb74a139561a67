"""AdcSR's encoder swap (arXiv 2411.13383).

The low-resolution image itself, rearranged, takes the place of bicubic upsampling and the VAE.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from torch import nn

from compress.core.errors import UserError
from compress.model.passes import Pass
from compress.model.sr_model import SRModel
from compress.networks.latent_diffusion import UNetDenoiser
from compress.networks.mmdit import MMDiTDenoiser
from compress.process.bidirectional import Bidirectional
from compress.process.direct import Direct

CHANNELS = 3  # of an image


class PixelUnshuffleEncoder(nn.Module):
    """An encoder without parameters.

    [B, 3, h, w] in [0, 1] -> [B, 3 * factor^2, h / factor, w / factor] in [-1, 1].
    """

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """Rearrange blocks of factor x factor pixels into channels."""
        return F.pixel_unshuffle(lr * 2 - 1, self.factor)


def repeat_inputs(conv: nn.Conv2d, count: int) -> None:
    """Widen or narrow a convolution to `count` inputs, in place.

    Input i takes the weights of input i mod (inputs before).
    """
    index = torch.arange(count, device=conv.weight.device) % conv.in_channels
    values = conv.weight.detach()[:, index].contiguous()
    conv.weight = nn.Parameter(values, requires_grad=conv.weight.requires_grad)
    conv.in_channels = count


class EncoderSwap(Pass):
    """Replace the encoder by PixelUnshuffle, and widen the UNet's first convolution.

    Its weights are repeated, undivided as in AdcSR. The UNet then predicts the clean latent itself,
    because there is no noisy latent to subtract from. Of SD 3's transformer it is the convolution
    of the patches; what the last layer puts out changes its sign, for z0 was z - v. The result must
    be trained: the network has never seen pixels.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["encoder_swap"] = Field(
        default="encoder_swap", alias="pass", description="Names the pass."
    )

    @torch.no_grad()
    def convert(self, model: SRModel) -> None:
        """Swap the encoder.

        Raises:
            UserError: The model is no plain one, the denoiser is no UNet or transformer with a
                plain first convolution, it starts from the encoder's moments, or the latent is no
                whole number of times smaller than the image.
        """
        model.check_plain("pass 'encoder_swap'")
        smaller = 1 / model.latent_ratio
        factor = round(smaller)
        if isinstance(model.process, Bidirectional):
            raise UserError(
                "pass 'encoder_swap': the model's denoiser starts from the mean and variance of "
                "its encoder, which PixelUnshuffle does not give; leave the pass out for "
                "Edge-SD-SR and bidirectional"
            )
        denoiser = model.denoiser
        if not isinstance(denoiser, (UNetDenoiser, MMDiTDenoiser)) or factor != smaller:
            raise UserError(
                "pass 'encoder_swap': needs a UNet or SD 3's transformer on a latent that is a "
                f"whole number of times smaller than the LR image; here it is {smaller} times, and "
                f"the denoiser a {type(denoiser).__name__}"
            )
        if isinstance(denoiser, UNetDenoiser):
            first = _plain(denoiser.unet.conv_in, nn.Conv2d, "the UNet's conv_in")
        else:
            network = denoiser.transformer
            first = _plain(network.pos_embed.proj, nn.Conv2d, "the transformer's patch embedding")
            last = _plain(network.proj_out, nn.Linear, "the transformer's proj_out")
            for parameter in last.parameters():
                parameter.neg_()  # z0 = z - v loses its z
        model.encoder = PixelUnshuffleEncoder(factor)
        repeat_inputs(first, CHANNELS * factor**2)
        model.process = Direct()


def _plain(layer: nn.Module, kind: type[nn.Module], name: str) -> Any:
    """`layer`, if no pass has replaced it. Raises UserError with its `name` otherwise."""
    if type(layer) is not kind:
        raise UserError(
            f"pass 'encoder_swap': {name} is a {type(layer).__name__}; list encoder_swap before "
            "the passes that replace layers"
        )
    return layer
