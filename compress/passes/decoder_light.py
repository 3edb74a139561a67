"""A light decoder in the place of an autoencoder's (Edge-SD-SR, CVPR 2025).

[KNOWN] from the abstract: the autoencoder shrinks from 83M to 14M parameters, and the decoder, 59 % of the latency on a
phone, is tuned last on the UNet's outputs. [REC], our reconstruction: its layers (sources/edge_parts.py). That it
learns the old decoder's features is ours.
"""

import json
from typing import Annotated, Literal

import torch
from accelerate.utils import set_seed
from pydantic import ConfigDict, Field, model_validator

from compress.core.errors import UserError
from compress.core.identity import files_key
from compress.data.folder import data_hash, find_images
from compress.model.passes import FitContext, Pass
from compress.model.sr_model import SCALE, SRModel
from compress.networks.edge import LightDecoder
from compress.networks.latent_diffusion import VAEDecoder
from compress.passes.distill import Photographs

# Widths and blocks from the latent on, and whether the last doubling is a pixel shuffle. The first two are [REC].
SIZES = {
    "default": ((320, 160, 64, 24), (4, 3, 2, 1), False),
    "lite": ((512, 64, 32, 16), (1, 2, 2, 1), False),
    "nano": ((96, 48, 24), (2, 2, 1), True),
}


def latent_channels(decoder: torch.nn.Module) -> int:
    """What a decoder takes. Raises UserError for one whose features cannot be learnt from."""
    if isinstance(decoder, LightDecoder):
        return decoder.conv_in.in_channels
    if not isinstance(decoder, VAEDecoder):
        raise UserError(
            "pass 'decoder_light': replaces the decoder of a KL autoencoder, not a "
            f"{type(decoder).__name__}"
        )
    conv = decoder.post_quant_conv
    return (
        conv.in_channels
        if hasattr(conv, "in_channels")
        else decoder.decoder.mid_block.resnets[0].in_channels
    )


class DecoderLight(Pass):
    """Replace the decoder by a `LightDecoder` of one of the SIZES, or of own `widths`, `blocks` and `shuffle`.

    No weight of the old decoder fits, so `fit` starts from seeded random values and trains `steps` on what the model
    makes of degraded photographs: `feature` is L1 to the old decoder's maps of every size that both have, through 1x1
    convolutions that are dropped again; l1, mse and lpips compare with its image. A killed run resumes. To tune it on
    photographs afterwards list `distill` with `stage: student`, `target: hr` and `train: [decoder.*]`.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["decoder_light"] = Field(default="decoder_light", alias="pass")
    size: Literal["default", "lite", "nano"] | None = None
    widths: tuple[Annotated[int, Field(gt=0, le=8192)], ...] = Field(min_length=1, max_length=16)
    blocks: tuple[Annotated[int, Field(ge=0, le=64)], ...] = Field(min_length=1, max_length=16)
    shuffle: bool = False
    losses: dict[Literal["feature", "l1", "mse", "lpips"], float] = Field(
        {"feature": 0.1, "l1": 1.0}, min_length=1
    )
    data: Photographs = Photographs()
    steps: int = Field(ge=0)
    batch: int = Field(16, gt=0)
    crop: int = Field(128, gt=0, multiple_of=64)
    lr: float = Field(1e-3, gt=0)
    ema: float = Field(0.995, ge=0, lt=1)
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    lpips_weights: str | None = None
    lpips_net: Literal["squeeze", "alex", "vgg"] = "squeeze"
    checkpoint_every: int = Field(100, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, data: dict) -> dict:
        """Write the size out, so that a saved model keeps its structure if SIZES should ever change."""
        if isinstance(data, dict) and isinstance(data.get("size"), str) and data["size"] in SIZES:
            return dict(zip(("widths", "blocks", "shuffle"), SIZES[data["size"]])) | data
        return data

    @model_validator(mode="after")
    def _complete(self) -> "DecoderLight":
        if len(self.widths) != len(self.blocks):
            raise ValueError(
                f"widths {list(self.widths)} and blocks {list(self.blocks)} must name the same levels"
            )
        if self.losses.get("lpips") and self.lpips_weights is None:
            raise ValueError("the loss lpips needs lpips_weights; set it, or leave the loss out")
        return self

    def convert(self, model: SRModel) -> None:
        channels = latent_channels(model.decoder)
        device = next(model.decoder.parameters()).device
        with torch.device(device):
            decoder = LightDecoder(self.widths, self.blocks, channels, self.shuffle)
        wanted = round(SCALE / model.latent_ratio)
        if decoder.scale != wanted:
            raise UserError(
                f"pass 'decoder_light': {len(self.widths)} widths{' and a shuffle' * self.shuffle} enlarge "
                f"{decoder.scale} times, the latent needs {wanted} times; each width after the first, and "
                "the shuffle, doubles"
            )
        model.decoder = decoder.requires_grad_(False)

    def fit(self, model: SRModel, context: FitContext) -> dict:
        set_seed(context.seed)
        for module in model.decoder.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        if not self.steps:
            return {}
        from compress.training.light_decoder import distil_decoder

        return distil_decoder(self, model, context.before(self.pass_).to(context.device), context)

    def data_key(self) -> str:
        if not self.steps:
            return ""
        return json.dumps(
            [
                data_hash(find_images(self.data.folders)),
                files_key([self.lpips_weights] if self.lpips_weights else []),
            ]
        )
