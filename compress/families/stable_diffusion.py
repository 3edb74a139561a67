"""What families have in common that are made of Stable Diffusion's UNet and VAE."""

from typing import ClassVar, NamedTuple

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from pydantic import Field
from torch import nn

from compress.core.errors import UserError
from compress.families.released import ReleasedSource
from compress.families.taking_over import take_networks
from compress.model.sr_model import SRModel
from compress.networks.latent_diffusion import PromptEncoder
from compress.networks.nano import NANO_UNET, NanoWidths
from compress.networks.sd21 import TOKENS, sd21_parts
from compress.networks.sd21_checkpoint import PARTS


class Parts(NamedTuple):
    """The networks, on the meta device.

    Attributes:
        text_encoder: None for a nano.
        unet: The UNet.
        vae: The autoencoder.
        context: A nano's constant text, which takes the text encoder's place; else None.
    """

    text_encoder: PromptEncoder | None
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    context: nn.Parameter | None


class StableDiffusionSource(NanoWidths, ReleasedSource):
    """A source of UNet and VAE, with the sizes `full` and `nano`."""

    base_parts: ClassVar[tuple[str, ...]] = PARTS

    def parts(self, prompts: int = 1) -> Parts:
        """The networks of the size that is chosen.

        Args:
            prompts: How many constant texts the full size has.
        """
        if self.is_nano():
            with torch.device("meta"):
                context = nn.Parameter(torch.empty(1, TOKENS, NANO_UNET["cross_attention_dim"]))
                return Parts(None, self.nano_unet(), self.nano_vae(), context)
        full = sd21_parts(prompts)
        return Parts(full.text_encoder, full.unet, full.vae, None)

    def take_over(self, model: SRModel, other: SRModel, where: str) -> None:
        """See `Source`: a nano takes the networks of a nano of one step."""
        if not self.is_nano():
            raise UserError(
                f"{where} is a nano, and source.size '{self.size}' begins with published files; "
                "leave start out"
            )
        take_networks(model, other, self.nano_unet(), where)
        self.begin(model)

    def begin(self, model: SRModel) -> None:
        """Let what the family adds to a nano count nothing at first, in place; by default none."""


class GuidedSource(StableDiffusionSource):
    """A source whose full size may have classifier-free guidance; its subclasses set prompts."""

    prompt: str = Field("", description="For `full`, the constant prompt.")
    negative_prompt: str = Field(
        "", description="For `full`, the prompt that guidance leads away from."
    )
    guidance: float = Field(
        1.0,
        ge=1,
        le=100,
        description="For `full`, the factor of classifier-free guidance. Above 1 steps run on two "
        "prompts.",
    )

    def prompts(self) -> list[str]:
        """The constant texts: with guidance the negative one as well."""
        return [self.prompt] if self.guidance == 1 else [self.prompt, self.negative_prompt]
