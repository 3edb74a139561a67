"""Fold what never changes: the prompt and the timestep of a one-step model; and what is computed four times. Exact up to
rounding.

PassionSR (arXiv 2411.17106) drops the text encoder for a constant context and fixes the timestep. With both constant
the algebra goes further: a key or value projection of a constant is a constant, and a projected time embedding is a
bias of the convolution before it. Folding in float64 costs at most one rounding of the stored type.
"""

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from pydantic import ConfigDict, Field
from torch import nn

from compress.core.errors import UserError
from compress.folding.film import fold_film
from compress.folding.phases import to_phases
from compress.model.passes import Pass
from compress.model.sr_model import SRModel
from compress.networks.latent_diffusion import ConstantProjection, NoTimeEmbedding, UNetDenoiser
from compress.networks.residual_shift import PairDenoiser


def _project(layer: nn.Module, x: torch.Tensor, name: str) -> torch.Tensor:
    """`layer(x)` in float64, for a plain linear layer."""
    if type(layer) is not nn.Linear:
        raise UserError(
            f"pass 'strip': {name} is a {type(layer).__name__}, only a plain Linear can be folded; "
            "list strip before the passes that replace layers"
        )
    bias = None if layer.bias is None else layer.bias.double()
    return F.linear(x.double(), layer.weight.double(), bias)


def fold_context(unet: UNet2DConditionModel, context: torch.Tensor) -> None:
    """Replace the keys and values of every cross-attention by those of `context` [1, tokens, dim]."""
    for name, attention in unet.named_modules():
        if not (isinstance(attention, Attention) and attention.is_cross_attention):
            continue
        for side in ("to_k", "to_v"):
            layer = getattr(attention, side)
            if not isinstance(layer, ConstantProjection):
                value = _project(layer, context, f"{name}.{side}").to(layer.weight.dtype)
                setattr(attention, side, ConstantProjection(value, layer.weight.requires_grad))


def fold_timestep(unet: UNet2DConditionModel, timestep: int) -> None:
    """Move the embedding of `timestep` through every residual block's projection into the bias of its `conv1`."""
    if isinstance(unet.time_embedding, NoTimeEmbedding):
        return
    steps = torch.full((1,), timestep, device=unet.conv_in.weight.device)
    embedding = copy.deepcopy(unet.time_embedding).double()(
        unet.time_proj(steps).double()
    )  # [1, 4 * width]
    if unet.time_embed_act is not None:
        embedding = unet.time_embed_act(embedding)
    for name, block in unet.named_modules():
        if not isinstance(block, ResnetBlock2D) or block.time_emb_proj is None:
            continue
        if block.time_embedding_norm != "default" or type(block.conv1) is not nn.Conv2d:
            raise UserError(
                f"pass 'strip': {name} has no plain convolution with an additive time embedding "
                f"({type(block.conv1).__name__}, {block.time_embedding_norm}); set timestep=keep, or "
                "list strip before the passes that replace layers"
            )
        x = embedding if block.skip_time_act else block.nonlinearity(embedding)
        shift = _project(block.time_emb_proj, x, f"{name}.time_emb_proj")[0]
        bias = block.conv1.bias
        block.conv1.bias = nn.Parameter(
            (bias.double() + shift).to(bias.dtype), requires_grad=bias.requires_grad
        )
        block.time_emb_proj = None
    unet.time_embedding = NoTimeEmbedding()


def remove_context(unet: UNet2DConditionModel) -> None:
    """Drop every cross-attention with its norm, folding nothing."""
    for module in unet.modules():
        if isinstance(module, BasicTransformerBlock):
            module.attn2 = module.norm2 = None


def remove_timestep(unet: UNet2DConditionModel) -> None:
    """Drop the time embedding and its projections, folding nothing."""
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            module.time_emb_proj = None
    unet.time_embedding = NoTimeEmbedding()


class Strip(Pass):
    """`text: constant` drops the text encoder and folds the prompt into keys and values; `embedding` only drops the
    encoder, as PassionSR does. `timestep: fold` folds the fixed timestep. Both are exact.

    `remove` is AdcSR's: `text: remove` drops cross-attention with its norm as well, `timestep: remove` the time
    embedding, and nothing is folded, so the model must be trained again.

    `upsample: phases` computes nearest enlargement with the 3x3 convolution after it by phases: exact, 4/9 of these
    layers' products for 16/9 of their weights (passes/phases.py). Passes that cut channels come before it.

    What an earlier strip has folded is left alone, so the pass may stand twice. ResShift's denoiser has no text:
    there only `timestep` counts, and `fold` needs the one-step model.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["strip"] = Field(default="strip", alias="pass")
    text: Literal["constant", "embedding", "keep", "remove"] = "constant"
    timestep: Literal["fold", "keep", "remove"] = "fold"
    upsample: Literal["keep", "phases"] = "keep"

    @torch.no_grad()
    def convert(self, model: SRModel) -> None:
        self._fold(model)
        if self.upsample == "phases":
            to_phases(model)

    def _fold(self, model: SRModel) -> None:
        denoiser = model.denoiser
        if isinstance(denoiser, PairDenoiser):
            self._convert_pair(model)
            return
        if not isinstance(denoiser, UNetDenoiser):
            raise UserError(
                f"pass 'strip': the denoiser is a {type(denoiser).__name__}, which has neither a text "
                "context nor a folded timestep to strip; remove the pass from the recipe"
            )
        if self.text == "remove":
            model.text_encoder = denoiser.context = None
            remove_context(denoiser.unet)
        elif self.text != "keep" and model.text_encoder is not None:
            denoiser.context = nn.Parameter(model.text_encoder(), requires_grad=False)
            model.text_encoder = None
        if self.text == "constant" and denoiser.context is not None:
            fold_context(denoiser.unet, denoiser.context)
            denoiser.context = None
        if self.timestep == "fold":
            fold_timestep(denoiser.unet, denoiser.timestep)
        elif self.timestep == "remove":
            remove_timestep(denoiser.unet)

    def _convert_pair(self, model: SRModel) -> None:
        if self.timestep == "remove":
            raise UserError(
                "pass 'strip': timestep=remove is for the UNet of Stable Diffusion; this denoiser takes "
                "fold or keep"
            )
        if self.timestep == "fold":
            if model.process.steps > 1:
                raise UserError(
                    f"pass 'strip': the denoiser runs at {model.process.steps} timesteps, so none is "
                    "constant; set timestep=keep, or take a one-step model (source.model=sinsr)"
                )
            fold_film(model.denoiser.unet, model.denoiser.timestep)

    def as_published(self) -> "Strip":
        if (
            self.text == "remove"
        ):  # AdcSR counts neither embedding; folded or removed, the cost is the same
            return self.model_copy(update={"upsample": "keep"})
        return self.model_copy(update={"text": "embedding", "timestep": "keep", "upsample": "keep"})
