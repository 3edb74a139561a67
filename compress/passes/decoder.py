"""AdcSR's decoder (arXiv 2411.13383).

It has half the channels, and reads the UNet's features without a latent between.
"""

from typing import Literal

import torch
from pydantic import ConfigDict, Field
from torch import nn

from compress.core.errors import UserError
from compress.model.passes import Pass
from compress.model.sr_model import SRModel
from compress.networks.latent_diffusion import UNetDenoiser, VAEDecoder
from compress.passes.prune import ChannelPruning
from compress.process.bidirectional import Bidirectional
from compress.process.direct import Direct


class DecoderHalve(ChannelPruning):
    """Keep `ratio` of the decoder's channels: `prune` under the name it has in AdcSR."""

    pass_: Literal["decoder_halve"] = Field(
        default="decoder_halve", alias="pass", description="Names the pass."
    )
    ratio: float = Field(
        0.5, gt=0, le=1, description="Share of the channels of every layer that stays."
    )
    components: tuple[Literal["decoder"]] = Field(
        ("decoder",), description="Always the decoder alone."
    )


def repeat_outputs(conv: nn.Conv2d, count: int) -> None:
    """Widen or narrow a convolution to `count` outputs, in place.

    Output i becomes output i mod (outputs before).
    """
    index = torch.arange(count, device=conv.weight.device) % conv.out_channels
    conv.weight = _rows(conv.weight, index)
    if conv.bias is not None:
        conv.bias = _rows(conv.bias, index)
    conv.out_channels = count


def _rows(parameter: torch.Tensor, index: torch.Tensor) -> nn.Parameter:
    values = parameter.detach()[index].contiguous()
    return nn.Parameter(values, requires_grad=parameter.requires_grad)


class DecoderJoin(Pass):
    """Let the UNet put out the features that the decoder's middle block reads.

    What lay between goes: the latent, the one-step formula, the scaling factor, post_quant_conv and
    the decoder's conv_in. The UNet's conv_out starts from its weights repeated, as in AdcSR. The
    result must be trained.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["decoder_join"] = Field(
        default="decoder_join", alias="pass", description="Names the pass."
    )

    @torch.no_grad()
    def convert(self, model: SRModel) -> None:
        """Join the two networks.

        Raises:
            UserError: They are no UNet and no autoencoder's decoder with plain convolutions, or the
                model's denoiser adds to a latent.
        """
        model.check_plain("pass 'decoder_join'")
        decoder = model.decoder
        denoiser = model.denoiser
        if not isinstance(decoder, VAEDecoder) or not isinstance(denoiser, UNetDenoiser):
            raise UserError(
                f"pass 'decoder_join': joins a UNet to an autoencoder's decoder, not a "
                f"{type(denoiser).__name__} to a {type(decoder).__name__}"
            )
        if isinstance(model.process, Bidirectional):
            raise UserError(
                "pass 'decoder_join': the model's denoiser adds to the mean of its encoder, a "
                "latent, which features are not; leave the pass out after bidirectional"
            )
        first = decoder.decoder.conv_in
        last = denoiser.unet.conv_out
        if type(first) is not nn.Conv2d or type(last) is not nn.Conv2d:
            raise UserError(
                f"pass 'decoder_join': the decoder's conv_in is a {type(first).__name__} and the "
                f"UNet's conv_out a {type(last).__name__}, both must be plain convolutions; list "
                "decoder_join once, before the passes that replace layers"
            )
        repeat_outputs(last, first.out_channels)
        nothing = nn.Identity()
        decoder.post_quant_conv = nothing
        decoder.decoder.conv_in = nothing
        decoder.scaling_factor = 1.0
        model.process = Direct()
