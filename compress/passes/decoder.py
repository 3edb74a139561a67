"""AdcSR's decoder (arXiv 2411.13383): half the channels, joined to the UNet's features without a latent between."""

from typing import Literal

import torch
from pydantic import ConfigDict, Field
from torch import nn

from compress.core.errors import UserError
from compress.model.passes import Pass
from compress.model.sr_model import SRModel
from compress.networks.latent_diffusion import UNetDenoiser, VAEDecoder
from compress.passes.prune import Prune
from compress.process.bidirectional import Bidirectional
from compress.process.direct import Direct


class DecoderHalve(Prune):
    """Keep `ratio` of the decoder's channels: `prune` on the decoder, under the name it has in AdcSR."""

    pass_: Literal["decoder_halve"] = Field(default="decoder_halve", alias="pass")
    ratio: float = Field(0.5, gt=0, le=1)
    components: tuple[Literal["decoder"]] = ("decoder",)


def repeat_outputs(conv: nn.Conv2d, count: int) -> None:
    """Widen or narrow a convolution to `count` outputs: output i is output i mod (outputs before)."""
    index = torch.arange(count, device=conv.weight.device) % conv.out_channels
    conv.weight = nn.Parameter(
        conv.weight.detach()[index].contiguous(), requires_grad=conv.weight.requires_grad
    )
    conv.bias = nn.Parameter(
        conv.bias.detach()[index].contiguous(), requires_grad=conv.bias.requires_grad
    )
    conv.out_channels = count


class DecoderJoin(Pass):
    """Let the UNet put out the features that the decoder's middle block reads. What lay between goes: the latent, the
    one-step formula, the scaling factor, post_quant_conv and the decoder's conv_in.

    The UNet's conv_out starts from its weights repeated, as in AdcSR; the result must be trained.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["decoder_join"] = Field(default="decoder_join", alias="pass")

    @torch.no_grad()
    def convert(self, model: SRModel) -> None:
        decoder, denoiser = model.decoder, model.denoiser
        if not isinstance(decoder, VAEDecoder) or not isinstance(denoiser, UNetDenoiser):
            raise UserError(
                f"pass 'decoder_join': joins a UNet to an autoencoder's decoder, not a "
                f"{type(denoiser).__name__} to a {type(decoder).__name__}"
            )
        if isinstance(model.process, Bidirectional):
            raise UserError(
                "pass 'decoder_join': the model's denoiser adds to the mean of its encoder, a latent, which "
                "features are not; leave the pass out after bidirectional"
            )
        first, last = decoder.decoder.conv_in, denoiser.unet.conv_out
        if type(first) is not nn.Conv2d or type(last) is not nn.Conv2d:
            raise UserError(
                f"pass 'decoder_join': the decoder's conv_in is a {type(first).__name__} and the UNet's "
                f"conv_out a {type(last).__name__}, both must be plain convolutions; list decoder_join "
                "once, before the passes that replace layers"
            )
        repeat_outputs(last, first.out_channels)
        decoder.post_quant_conv = decoder.decoder.conv_in = nn.Identity()
        decoder.scaling_factor = 1.0
        model.process = Direct()
