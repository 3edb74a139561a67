"""Fold what a UNet or a control network is always told: constant texts, and known timesteps.

A key or value projection of a constant is a constant; of two prompts there are two of each. A
projected time embedding is a bias of the convolution before it, one for each timestep. Folding in
float64 costs at most one rounding of the stored type.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from compress.core.errors import UserError
from compress.networks.image_prompt import image_modules
from compress.networks.latent_diffusion import ConstantProjection, NoTimeEmbedding


def _project(layer: nn.Module, x: torch.Tensor, name: str) -> torch.Tensor:
    """Compute `layer(x)` in float64, for a plain linear layer."""
    if not isinstance(layer, nn.Linear) or type(layer) is not nn.Linear:
        raise UserError(
            f"pass 'strip': {name} is a {type(layer).__name__}, only a plain Linear can be folded; "
            "list strip before the passes that replace layers"
        )
    bias = None if layer.bias is None else layer.bias.double()
    return F.linear(x.double(), layer.weight.double(), bias)


def fold_context(network: nn.Module, contexts: torch.Tensor) -> None:
    """Replace the keys and values of every cross-attention on the text by those of constant ones.

    With several texts the network is told the number of one, as a row of `number_prompts`. Of keys
    and values that are folded already, those of the texts that `contexts` numbers are left.

    Args:
        network: Changed in place.
        contexts: [texts, tokens, dim], or numbers of texts [texts, 1, texts before].

    Raises:
        UserError: A projection is no plain linear layer any more.
    """
    elsewhere = image_modules(network)
    for name, attention in network.named_modules():
        if not isinstance(attention, Attention) or not attention.is_cross_attention:
            continue
        if attention in elsewhere:
            continue
        for side in ("to_k", "to_v"):
            layer = attention.get_submodule(side)
            if isinstance(layer, ConstantProjection):
                if len(layer.value) > 1:
                    kept = ConstantProjection(layer(contexts), layer.value.requires_grad)
                    setattr(attention, side, kept)
                continue
            value = _project(layer, contexts, f"{name}.{side}")
            weight = layer.get_parameter("weight")
            constant = ConstantProjection(value.to(weight.dtype), weight.requires_grad)
            setattr(attention, side, constant)


def number_prompts(contexts: torch.Tensor) -> torch.Tensor:
    """What tells a network of folded texts which of them is meant.

    Args:
        contexts: [texts, tokens, dim].

    Returns:
        [texts, 1, texts], 1 at the text's place and 0 elsewhere, of the type of `contexts`.
    """
    return torch.eye(len(contexts), dtype=contexts.dtype, device=contexts.device)[:, None]


class StepNumber(nn.Module):
    """In place of the sinusoids of a timestep: which of the known ones it is.

    Args:
        timesteps: All that the process tells.
    """

    def __init__(self, timesteps: Sequence[int]):
        super().__init__()
        self.timesteps = tuple(timesteps)

    def forward(self, timesteps: torch.Tensor) -> torch.Tensor:
        """int64 [B] -> float [B, k], 1 at the timestep's place and 0 elsewhere."""
        known = torch.tensor(self.timesteps, device=timesteps.device)
        return (timesteps[:, None] == known[None]).float()


class KnownEmbedding(nn.Module):
    """In place of a time embedding: what `StepNumber` gives, as it is."""

    def forward(self, number: torch.Tensor, _condition: torch.Tensor | None = None) -> torch.Tensor:
        """[B, k] -> [B, k]."""
        return number


class StepBiases(nn.Module):
    """In place of the projection of a time embedding: biases for each known timestep.

    It is no linear layer, so that passes that replace layers leave it alone.

    Args:
        biases: [k, channels].
        requires_grad: Whether they are trained.
    """

    def __init__(self, biases: torch.Tensor, requires_grad: bool = True):
        super().__init__()
        self.biases = nn.Parameter(biases, requires_grad)

    def forward(self, number: torch.Tensor) -> torch.Tensor:
        """What `StepNumber` gives, [B, k] -> [B, channels]."""
        return number.to(self.biases.dtype) @ self.biases


def fold_timesteps(network: Any, timesteps: Sequence[float]) -> None:
    """Replace the time embedding by what it becomes in every residual block.

    With one timestep that is a part of the bias of the block's first convolution. With several it
    is a set of biases for each, which the timestep chooses.

    Args:
        network: Has diffusers' residual blocks, `time_proj` and `time_embedding`. Changed in place.
        timesteps: All that the network is told.

    Raises:
        UserError: A residual block has no plain convolution with an additive time embedding.
    """
    if isinstance(network.time_embedding, (NoTimeEmbedding, KnownEmbedding)):
        return
    device = network.conv_in.weight.device
    embed = copy.deepcopy(network.time_embedding).double()
    sinusoids = network.time_proj(torch.tensor(timesteps, device=device))
    embedding = embed(sinusoids.double())  # [k, 4 * width]
    if getattr(network, "time_embed_act", None) is not None:
        embedding = network.time_embed_act(embedding)
    for name, block in network.named_modules():
        if isinstance(block, ResnetBlock2D) and block.time_emb_proj is not None:
            _fold_embedding(block, embedding, name)
    if len(timesteps) == 1:
        network.register_module("time_embedding", NoTimeEmbedding())
        return
    network.register_module("time_proj", StepNumber([int(t) for t in timesteps]))
    network.register_module("time_embedding", KnownEmbedding())


def _fold_embedding(block: ResnetBlock2D, embedding: torch.Tensor, name: str) -> None:
    """Let a residual block hold what each row of `embedding` [k, 4 * width] becomes in it."""
    conv = block.conv1
    if block.time_embedding_norm != "default" or type(conv) is not nn.Conv2d or conv.bias is None:
        raise UserError(
            f"pass 'strip': {name} has no plain convolution with an additive time embedding "
            f"({type(conv).__name__}, {block.time_embedding_norm}); set timestep=keep, or "
            "list strip before the passes that replace layers"
        )
    x = embedding if block.skip_time_act else block.nonlinearity(embedding)
    shifts = _project(block.get_submodule("time_emb_proj"), x, f"{name}.time_emb_proj")
    bias = conv.bias
    if len(shifts) > 1:
        table = StepBiases(shifts.to(bias.dtype), bias.requires_grad)
        block.register_module("time_emb_proj", table)
        block.skip_time_act = True
        return
    folded = (bias.double() + shifts[0]).to(bias.dtype)
    conv.bias = nn.Parameter(folded, requires_grad=bias.requires_grad)
    setattr(block, "time_emb_proj", None)  # noqa: B010  diffusers declares a layer, and reads None


def remove_context(network: nn.Module) -> None:
    """Drop every cross-attention on the text with its norm, folding nothing."""
    elsewhere = image_modules(network)
    for module in network.modules():
        if isinstance(module, BasicTransformerBlock) and module not in elsewhere:
            for name in ("attn2", "norm2"):
                setattr(module, name, None)


def remove_timestep(network: nn.Module) -> None:
    """Drop the time embedding and its projections, folding nothing."""
    for module in network.modules():
        if isinstance(module, ResnetBlock2D):
            setattr(module, "time_emb_proj", None)  # noqa: B010  as above
    network.register_module("time_embedding", NoTimeEmbedding())
