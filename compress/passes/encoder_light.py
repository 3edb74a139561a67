"""A light encoder in the place of an autoencoder's: the latent stays, what makes it is small.

`encoder_swap` is AdcSR's way, which gives the latent up and with it the process. This one keeps
both, so it acts on chains, control networks and predicted noise as well. The layers are ours.
"""

from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import ConfigDict, Field
from torch import nn

from compress.core.errors import UserError
from compress.model.calls import Call
from compress.model.passes import ComponentName, FitContext, Pass
from compress.model.sr_model import SRModel
from compress.networks.latent_diffusion import VAEEncoder
from compress.networks.light_encoder import LightEncoder


class EncoderLight(Pass):
    """Replace encoders by residual blocks on rearranged pixels, at the latent's size.

    An encoder that sampled its posterior gives no noise any more. No weight of the old one fits:
    `fit` draws seeded values, and `distill` with `stage: student` and `train: [encoder.*]` must
    follow.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["encoder_light"] = Field(
        default="encoder_light", alias="pass", description="Names the pass."
    )
    components: tuple[ComponentName, ...] = Field(
        ("encoder",), min_length=1, description="Autoencoders' encoders that are replaced."
    )
    channels: int = Field(64, ge=1, le=4096, description="Channels of the blocks.")
    blocks: int = Field(4, ge=0, le=64, description="Residual blocks of two convolutions.")

    def convert(self, model: SRModel) -> None:
        """Put the light encoders in.

        Raises:
            UserError: A component is no autoencoder's encoder, or its image is no whole number of
                times larger than the latent.
        """
        for name in self.components:
            encoder = model.component(name, "pass 'encoder_light': components")
            if not isinstance(encoder, VAEEncoder):
                raise UserError(
                    f"pass 'encoder_light': the {name} is a {type(encoder).__name__}, not an "
                    "autoencoder's encoder; leave it out of components"
                )
            call = model.wiring.call(name)
            device = next(encoder.parameters()).device
            channels = encoder.latent_channels
            with torch.device(device):
                light = LightEncoder(_factor(model, call), self.channels, self.blocks, channels)
            setattr(model, name, light.eval().requires_grad_(False))
            alone = replace(call, inputs=call.inputs[:1])
            calls = tuple(alone if one is call else one for one in model.wiring.calls)
            model.wiring = replace(model.wiring, calls=calls)

    def fit(self, model: SRModel, context: FitContext) -> dict[str, Any]:
        """Draw the values that a training begins with; no figures."""
        torch.manual_seed(context.seed)
        for name in self.components:
            for module in getattr(model, name).modules():
                if isinstance(module, nn.Conv2d):
                    module.reset_parameters()
        return {}


def _factor(model: SRModel, call: Call) -> int:
    """Pixels of the image that an encoder reads by those of its latent."""
    ratios = model.wiring.ratios
    exact = ratios[call.inputs[0]] / ratios[call.outputs[0]]
    if round(exact) != exact:
        raise UserError(
            f"pass 'encoder_light': the {call.component} reads an image {exact} times as large as "
            "its latent, which pixels cannot be rearranged for"
        )
    return round(exact)
