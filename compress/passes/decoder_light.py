"""A light decoder in the place of an autoencoder's (Edge-SD-SR, CVPR 2025).

[KNOWN] from the abstract: the autoencoder shrinks from 83M to 14M parameters, and the decoder, 59 % of the latency on a
phone, is tuned last on the UNet's outputs. [REC], our reconstruction: its layers (sources/edge_parts.py). That it
learns the old decoder's features is ours.
"""

import json

import torch
from accelerate.utils import set_seed

from compress.core.errors import UserError
from compress.core.identity import files_key
from compress.data.folder import data_hash, find_images
from compress.model.passes import FitContext
from compress.model.sr_model import SCALE, SRModel
from compress.networks.edge import LightDecoder
from compress.networks.latent_diffusion import VAEDecoder
from compress.training.config import DecoderLightConfig


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


class DecoderLight(DecoderLightConfig):
    """Replace the decoder by a `LightDecoder` of one of the SIZES, or of own `widths`, `blocks` and `shuffle`.

    No weight of the old decoder fits, so `fit` starts from seeded random values and trains `steps` on what the model
    makes of degraded photographs: `feature` is L1 to the old decoder's maps of every size that both have, through 1x1
    convolutions that are dropped again; l1, mse and lpips compare with its image. A killed run resumes. To tune it on
    photographs afterwards list `distill` with `stage: student`, `target: hr` and `train: [decoder.*]`.
    """

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
