"""Fold what never changes in a one-step model: the prompt and the timestep.

PassionSR (arXiv 2411.17106) drops the text encoder for a constant context and fixes the timestep.
With both constant the algebra goes further. A key or value projection of a constant is a constant.
A projected time embedding is a bias of the convolution before it. Folding in float64 costs at most
one rounding of the stored type.

The pass also folds what is computed four times: nearest enlargement before a convolution.
"""

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from pydantic import ConfigDict, Field
from torch import nn

from compress.core.errors import UserError
from compress.folding.film import fold_film
from compress.folding.phases import to_phases
from compress.model.passes import Pass
from compress.model.sr_model import SRModel
from compress.networks.image_prompt import image_modules
from compress.networks.latent_diffusion import ConstantProjection, NoTimeEmbedding, UNetDenoiser
from compress.networks.residual_shift import PairDenoiser


def _project(layer: nn.Module, x: torch.Tensor, name: str) -> torch.Tensor:
    """Compute `layer(x)` in float64, for a plain linear layer."""
    if not isinstance(layer, nn.Linear) or type(layer) is not nn.Linear:
        raise UserError(
            f"pass 'strip': {name} is a {type(layer).__name__}, only a plain Linear can be folded; "
            "list strip before the passes that replace layers"
        )
    bias = None if layer.bias is None else layer.bias.double()
    return F.linear(x.double(), layer.weight.double(), bias)


def fold_context(unet: UNet2DConditionModel, context: torch.Tensor) -> None:
    """Replace the keys and values of every cross-attention on the text by those of a constant one.

    Args:
        unet: Changed in place.
        context: [1, tokens, dim].

    Raises:
        UserError: A projection is no plain linear layer any more.
    """
    elsewhere = image_modules(unet)
    for name, attention in unet.named_modules():
        if not isinstance(attention, Attention) or not attention.is_cross_attention:
            continue
        if attention in elsewhere:
            continue
        for side in ("to_k", "to_v"):
            layer = attention.get_submodule(side)
            if isinstance(layer, ConstantProjection):
                continue
            value = _project(layer, context, f"{name}.{side}")
            weight = layer.get_parameter("weight")
            constant = ConstantProjection(value.to(weight.dtype), weight.requires_grad)
            setattr(attention, side, constant)


def fold_timestep(unet: UNet2DConditionModel, timestep: int) -> None:
    """Move a constant time embedding into the bias of every residual block's first convolution.

    Args:
        unet: Changed in place.
        timestep: The only one the model runs at.

    Raises:
        UserError: A residual block has no plain convolution with an additive time embedding.
    """
    if isinstance(unet.time_embedding, NoTimeEmbedding):
        return
    steps = torch.full((1,), timestep, device=unet.conv_in.weight.device)
    embed = copy.deepcopy(unet.time_embedding).double()
    embedding = embed(unet.time_proj(steps).double())  # [1, 4 * width]
    if unet.time_embed_act is not None:
        embedding = unet.time_embed_act(embedding)
    for name, block in unet.named_modules():
        if isinstance(block, ResnetBlock2D) and block.time_emb_proj is not None:
            _fold_embedding(block, embedding, name)
    unet.register_module("time_embedding", NoTimeEmbedding())


def _fold_embedding(block: ResnetBlock2D, embedding: torch.Tensor, name: str) -> None:
    """Add what `embedding` [1, 4 * width] becomes in a residual block to its first bias."""
    conv = block.conv1
    if block.time_embedding_norm != "default" or type(conv) is not nn.Conv2d or conv.bias is None:
        raise UserError(
            f"pass 'strip': {name} has no plain convolution with an additive time embedding "
            f"({type(conv).__name__}, {block.time_embedding_norm}); set timestep=keep, or "
            "list strip before the passes that replace layers"
        )
    x = embedding if block.skip_time_act else block.nonlinearity(embedding)
    shift = _project(block.get_submodule("time_emb_proj"), x, f"{name}.time_emb_proj")[0]
    bias = conv.bias
    folded = (bias.double() + shift).to(bias.dtype)
    conv.bias = nn.Parameter(folded, requires_grad=bias.requires_grad)
    setattr(block, "time_emb_proj", None)  # noqa: B010  diffusers declares a layer, and reads None


def remove_context(unet: UNet2DConditionModel) -> None:
    """Drop every cross-attention on the text with its norm, folding nothing."""
    elsewhere = image_modules(unet)
    for module in unet.modules():
        if isinstance(module, BasicTransformerBlock) and module not in elsewhere:
            for name in ("attn2", "norm2"):
                setattr(module, name, None)


def remove_timestep(unet: UNet2DConditionModel) -> None:
    """Drop the time embedding and its projections, folding nothing."""
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            setattr(module, "time_emb_proj", None)  # noqa: B010  as above
    unet.register_module("time_embedding", NoTimeEmbedding())


class Strip(Pass):
    """Fold or drop the text, the timestep and nearest enlargement.

    What an earlier strip has folded is left alone, so the pass may stand twice. ResShift's denoiser
    has no text: there only `timestep` counts, and `fold` needs the one-step model.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["strip"] = Field(default="strip", alias="pass", description="Names the pass.")
    text: Literal["constant", "embedding", "keep", "remove"] = Field(
        "constant",
        description=(
            "`constant` drops the text encoder and folds the prompt into keys and values, exactly; "
            "`embedding` only drops the encoder, as PassionSR; `remove` drops cross-attention with "
            "its norm as well, as AdcSR, so that the model must be trained again."
        ),
    )
    timestep: Literal["fold", "keep", "remove"] = Field(
        "fold",
        description=(
            "`fold` folds the fixed timestep, exactly; `remove` drops the time embedding, as "
            "AdcSR, so that the model must be trained again."
        ),
    )
    upsample: Literal["keep", "phases"] = Field(
        "keep",
        description=(
            "`phases` computes nearest enlargement with the 3x3 convolution after it by phases: "
            "exact, 4/9 of these layers' products for 16/9 of their weights "
            "(compress/folding/phases.py). Passes that cut channels come before it."
        ),
    )

    @torch.no_grad()
    def convert(self, model: SRModel) -> None:
        """Fold and drop.

        Raises:
            UserError: The model has nothing to strip, or earlier passes have replaced the layers.
        """
        denoiser = model.component("denoiser", "pass 'strip'")
        if isinstance(denoiser, PairDenoiser):
            self._strip_pair(model, denoiser)
        elif isinstance(denoiser, UNetDenoiser):
            self._strip_text(model, denoiser)
            self._strip_timestep(denoiser)
        else:
            raise UserError(
                f"pass 'strip': the denoiser is a {type(denoiser).__name__}, which has neither a "
                "text context nor a folded timestep to strip; remove the pass from the recipe"
            )
        if self.upsample == "phases":
            to_phases(model)

    def _strip_text(self, model: SRModel, denoiser: UNetDenoiser) -> None:
        if self.text == "remove":
            model.text_encoder = None
            denoiser.context = None
            remove_context(denoiser.unet)
            return
        if self.text != "keep" and model.text_encoder is not None:
            denoiser.context = nn.Parameter(model.text_encoder(), requires_grad=False)
            model.text_encoder = None
        if self.text == "constant" and denoiser.context is not None:
            fold_context(denoiser.unet, denoiser.context)
            denoiser.context = None

    def _strip_timestep(self, denoiser: UNetDenoiser) -> None:
        if self.timestep == "fold":
            fold_timestep(denoiser.unet, denoiser.timestep)
        elif self.timestep == "remove":
            remove_timestep(denoiser.unet)

    def _strip_pair(self, model: SRModel, denoiser: PairDenoiser) -> None:
        """ResShift's denoiser: fold its one timestep."""
        if self.timestep == "remove":
            raise UserError(
                "pass 'strip': timestep=remove is for the UNet of Stable Diffusion; this denoiser "
                "takes fold or keep"
            )
        if self.timestep == "keep":
            return
        if model.process.steps > 1:
            raise UserError(
                f"pass 'strip': the denoiser runs at {model.process.steps} timesteps, so none is "
                "constant; set timestep=keep, or take a one-step model (source.model=sinsr)"
            )
        fold_film(denoiser.unet, denoiser.timestep)

    def as_published(self) -> "Strip":
        """This pass as AdcSR's or PassionSR's paper counts it."""
        if self.text == "remove":
            # AdcSR counts neither embedding; folded or removed, the cost is the same.
            return self.model_copy(update={"upsample": "keep"})
        return self.model_copy(update={"text": "embedding", "timestep": "keep", "upsample": "keep"})
