"""A light decoder in the place of an autoencoder's (Edge-SD-SR, CVPR 2025).

[KNOWN] from the abstract: the autoencoder shrinks from 83M to 14M parameters, and the decoder, 59 %
of the latency on a phone, is tuned last on the UNet's outputs. [REC], our reconstruction: its
layers (compress/networks/edge.py). That it learns the old decoder's features is ours.
"""

import json
from typing import Any

import torch

from compress.core.errors import UserError
from compress.core.identity import files_key
from compress.data.folder import data_hash, find_images
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.networks.edge import LightDecoder
from compress.networks.latent_diffusion import VAEDecoder
from compress.networks.tiny_autoencoder import TinyDecoder, read_tiny
from compress.process.resample import SCALE
from compress.training.config import DecoderLightConfig


def latent_channels(decoder: torch.nn.Module) -> int:
    """Channels of the latent that a decoder takes.

    Raises:
        UserError: It is one whose features cannot be learnt from.
    """
    if isinstance(decoder, LightDecoder):
        return decoder.conv_in.in_channels
    if isinstance(decoder, TinyDecoder):
        return decoder.in_channels
    if not isinstance(decoder, VAEDecoder):
        raise UserError(
            "pass 'decoder_light': replaces the decoder of a KL autoencoder, not a "
            f"{type(decoder).__name__}"
        )
    for conv in (decoder.post_quant_conv, decoder.decoder.conv_in):
        if hasattr(conv, "in_channels"):
            return conv.in_channels
    return decoder.decoder.mid_block.resnets[0].in_channels


class DecoderLight(DecoderLightConfig):
    """Replace the decoder by a `LightDecoder`, or by a tiny autoencoder's (kind `taesd`).

    A published TAESD (`weights`) decodes the latents of Stable Diffusion 1 and 2 as it is, with
    `steps: 0`, or is tuned on the model's own.

    A light decoder has one of the `SIZES`, or own `widths`, `blocks` and `shuffle`. No weight of
    the old decoder fits, so `fit` starts from seeded random values and trains `steps` on what the
    model makes of degraded photographs. `feature` is L1 to the old decoder's maps of every size
    that both have, through 1x1 convolutions that are dropped again; l1, mse and lpips compare with
    its image. A killed run resumes. To tune it on photographs afterwards list `distill` with
    `stage: student`, `target: hr` and `train: [decoder.*]`.
    """

    def convert(self, model: SRModel) -> None:
        """Put the light decoder in.

        Raises:
            UserError: The old decoder cannot be learnt from, or the new one enlarges by another
                factor.
        """
        model.check_decoder("pass 'decoder_light'")
        channels = latent_channels(model.decoder)
        device = next(model.decoder.parameters()).device
        with torch.device(device):
            decoder = self._decoder(channels)
        needed = round(SCALE / model.latent_ratio)
        if decoder.scale != needed:
            shuffle = " and a shuffle" if self.shuffle else ""
            raise UserError(
                f"pass 'decoder_light': {len(self.widths)} widths{shuffle} enlarge "
                f"{decoder.scale} times, the latent needs {needed} times; each width after the "
                "first, and the shuffle, doubles"
            )
        model.decoder = decoder.requires_grad_(False)

    def _decoder(self, channels: int) -> LightDecoder | TinyDecoder:
        if self.kind == "taesd":
            return TinyDecoder(self.widths[0], self.blocks, channels)
        return LightDecoder(self.widths, self.blocks, channels, self.shuffle)

    def fit(self, model: SRModel, context: FitContext) -> dict[str, Any]:
        """Train the decoder from published or random values; returns figures of the losses.

        Raises:
            UserError: The file of `weights` is missing, or holds another decoder.
        """
        # Here: they need what only the extra `training` installs.
        from accelerate.utils import set_seed

        from compress.training.light_decoder import distil_decoder

        set_seed(context.seed)
        for module in model.decoder.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
        if self.weights is not None and isinstance(model.decoder, TinyDecoder):
            read_tiny(model.decoder, self.weights, "pass 'decoder_light': weights")
        if not self.steps:
            return {}
        teacher = context.before(self.pass_).to(context.device)
        return distil_decoder(self, model, teacher, context)

    def data_key(self) -> str:
        """Identity of the photographs and of weight files; empty without either."""
        begun = files_key([self.weights]) if self.weights else ""
        if not self.steps:
            return begun
        weights = [self.lpips_weights] if self.lpips_weights else []
        return json.dumps(
            [
                data_hash(find_images(self.data.folders)),
                files_key(weights),
                *([begun] if begun else []),
            ]
        )
