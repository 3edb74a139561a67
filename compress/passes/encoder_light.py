"""A light encoder in the place of an autoencoder's: the latent stays, what makes it is small.

`encoder_swap` is AdcSR's way, which gives the latent up and with it the process. This one keeps
both, so it acts on chains, control networks and predicted noise as well. The layers are ours.
"""

from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import nn

from compress.core.errors import UserError
from compress.core.identity import files_key
from compress.model.calls import Call
from compress.model.passes import ComponentName, FitContext, Pass
from compress.model.sr_model import SRModel
from compress.networks.latent_diffusion import VAEEncoder
from compress.networks.light_encoder import LightEncoder
from compress.networks.tiny_autoencoder import TinyEncoder, read_tiny


class EncoderLight(Pass):
    """Replace encoders by residual blocks on rearranged pixels, at the latent's size.

    With kind `taesd` by a tiny autoencoder's encoder, which works at the image's size. Published
    `weights` of it make the latents of Stable Diffusion 1 and 2 without training.

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
    kind: Literal["blocks", "taesd"] = Field(
        "blocks",
        description="`blocks` on rearranged pixels, or `taesd`, a tiny autoencoder's encoder.",
    )
    weights: str | None = Field(
        None,
        description=(
            "For kind `taesd`, published values: taesd_encoder.safetensors, or diffusers' folder "
            "or file of a tiny autoencoder."
        ),
    )
    channels: int = Field(64, ge=1, le=4096, description="Channels of kind `blocks`.")
    blocks: int = Field(4, ge=0, le=64, description="Residual blocks of two convolutions.")

    @model_validator(mode="after")
    def _fit_together(self) -> "EncoderLight":
        if self.weights is not None and self.kind != "taesd":
            raise ValueError("weights are a tiny autoencoder's; set kind: taesd, or leave them out")
        return self

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
                light = self._encoder(_factor(model, call), channels)
            setattr(model, name, light.eval().requires_grad_(False))
            alone = replace(call, inputs=call.inputs[:1])
            calls = tuple(alone if one is call else one for one in model.wiring.calls)
            model.wiring = replace(model.wiring, calls=calls)

    def _encoder(self, factor: int, channels: int) -> LightEncoder | TinyEncoder:
        if self.kind == "taesd":
            return TinyEncoder(factor, channels)
        return LightEncoder(factor, self.channels, self.blocks, channels)

    def fit(self, model: SRModel, context: FitContext) -> dict[str, Any]:
        """Draw the values that a training begins with, or read published ones; no figures.

        Raises:
            UserError: The file of `weights` is missing, or holds another encoder.
        """
        torch.manual_seed(context.seed)
        for name in self.components:
            for module in getattr(model, name).modules():
                if isinstance(module, nn.Conv2d):
                    module.reset_parameters()
            if self.weights is not None:
                read_tiny(getattr(model, name), self.weights, "pass 'encoder_light': weights")
        return {}

    def data_key(self) -> str:
        """Identity of the published values, empty without."""
        return files_key([self.weights]) if self.weights else ""


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
