"""Fold what SD 3's transformer is always told: a constant text and one timestep. Exact.

With both constant, the embedding of time and text and all it says in the blocks are constants. A
scale and a shift go into the layers that read the norm, W' = W diag(1 + scale), b' = b + W shift; a
gate goes into the rows and the bias of the layer before it. What is left is a plain transformer.

The text stream is a constant up to the keys and values of the first block, and no further: its
queries attend to image tokens, so what the later blocks see of the text differs from image to image
(arXiv 2403.03206, figure 2). Caching keys and values there, as for cross-attention, is wrong.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.errors import UserError
from compress.networks.mmdit import MMDiT
from compress.networks.mmdit_block import ConstantTokens, JointBlock, Modulated

QUERIES = ("to_q", "to_k", "to_v")
TEXT_QUERIES = ("add_q_proj", "add_k_proj", "add_v_proj")
OF_TEXT = ("to_add_out", "norm_added_q", "norm_added_k", *TEXT_QUERIES)  # of an attention
Parts = Mapping[str, torch.Tensor]


def fold_text(network: MMDiT, context: torch.Tensor) -> None:
    """Let the text's embedding be a constant.

    Args:
        network: Changed in place.
        context: Tokens of the text, [1, tokens, dim].

    Raises:
        UserError: The layer is no plain one.
    """
    layer = network.context_embedder
    if layer is None or isinstance(layer, ConstantTokens):
        return
    network.context_embedder = ConstantTokens(_computed(layer, context, "context_embedder"))


def remove_text(network: MMDiT) -> None:
    """Drop the text stream, folding nothing; image tokens then attend to image tokens alone."""
    network.context_embedder = None
    for block in network.joint_blocks():
        for name in OF_TEXT:
            setattr(block.attn, name, None)
        for name in ("norm1_context", "norm2_context", "ff_context"):
            setattr(block, name, None)


def fold_embedding(network: MMDiT, pooled: torch.Tensor, timestep: float) -> None:
    """Fold the embedding of time and pooled text into all layers.

    Args:
        network: Changed in place.
        pooled: The pooled text, [1, dim].
        timestep: 0 to 1000.

    Raises:
        UserError: A layer is no plain one, because a pass has replaced it.
    """
    if network.time_text_embed is None:
        return
    _check_plain(network)
    embed = copy.deepcopy(network.time_text_embed).double()
    told = torch.full((1,), timestep, device=pooled.device)
    embedding = embed(told, pooled.double())
    for block in network.joint_blocks():
        _fold_image(block, _take_parts(block.norm1, embedding))
        if block.norm1_context is not None:
            _fold_text(block, _take_parts(block.norm1_context, embedding))
    _shift([network.proj_out], _take_parts(network.norm_out, embedding))
    network.time_text_embed = None
    drop_dead(network)
    _fold_first_text(network)


def drop_dead(network: MMDiT) -> None:
    """Drop the queries of a text stream that ends with this block: nothing reads their result."""
    blocks = network.joint_blocks()
    if not blocks:
        return
    last = blocks[-1].attn
    if last.to_add_out is None:
        last.add_q_proj = None
        last.norm_added_q = None


def _fold_first_text(network: MMDiT) -> None:
    """Queries, keys and values of a constant text in the first block, where no image is in it."""
    constant = network.context_embedder
    blocks = network.joint_blocks()
    if not blocks or not isinstance(constant, ConstantTokens):
        return
    first = blocks[0]
    if first.norm1_context is None:
        return
    tokens = constant.value.double()
    seen = F.layer_norm(tokens, tokens.shape[-1:], eps=first.norm1_context.norm.eps)
    for name in TEXT_QUERIES:
        layer = getattr(first.attn, name)
        if layer is not None:
            setattr(first.attn, name, ConstantTokens(_computed(layer, seen, name)))
    first.norm1_context = None


def _take_parts(norm: Modulated, embedding: torch.Tensor) -> dict[str, torch.Tensor]:
    """The parts of a modulation, float64 [D] each, which it gives up."""
    given = copy.deepcopy(norm)
    given.linear = given.linear.double()
    norm.linear = None
    return {name: part[0, 0] for name, part in given.parts(embedding).items()}


def _fold_image(block: JointBlock, parts: Parts) -> None:
    _shift([getattr(block.attn, name) for name in QUERIES], parts)
    _gate(block.attn.to_out[0], parts)
    if block.attn2 is not None:
        _shift([getattr(block.attn2, name) for name in QUERIES], parts, "_2")
        _gate(block.attn2.to_out[0], parts, "_2")
    _shift([block.ff.net[0].proj], parts, "_ff")
    _gate(block.ff.net[2], parts, "_ff")


def _fold_text(block: JointBlock, parts: Parts) -> None:
    layers = [getattr(block.attn, name) for name in TEXT_QUERIES]
    _shift([layer for layer in layers if layer is not None], parts)
    if block.attn.to_add_out is None:
        return
    _gate(block.attn.to_add_out, parts)
    _shift([block.ff_context.net[0].proj], parts, "_ff")
    _gate(block.ff_context.net[2], parts, "_ff")


def _shift(layers: list[nn.Linear], parts: Parts, which: str = "") -> None:
    """Let layers hold the scale and shift of what they read."""
    scale, shift = parts[f"scale{which}"], parts[f"shift{which}"]
    for layer in layers:
        weight, bias = layer.weight.double(), layer.bias.double()
        _set(layer, weight * (1 + scale), bias + weight @ shift)


def _gate(layer: nn.Linear, parts: Parts, which: str = "") -> None:
    """Let a layer hold the gate of what it puts out."""
    gate = parts[f"gate{which}"]
    _set(layer, layer.weight.double() * gate[:, None], layer.bias.double() * gate)


def _set(layer: nn.Linear, weight: torch.Tensor, bias: torch.Tensor) -> None:
    for name, value in (("weight", weight), ("bias", bias)):
        before = layer.get_parameter(name)
        folded = nn.Parameter(value.to(before.dtype), requires_grad=before.requires_grad)
        setattr(layer, name, folded)


def _computed(layer: Any, x: torch.Tensor, name: str) -> torch.Tensor:
    """What a plain layer makes of a constant, computed in float64, in the layer's type."""
    _check_linear(layer, name)
    value = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    return value.to(layer.weight.dtype).detach()


def _check_plain(network: MMDiT) -> None:
    """Raise UserError for a layer that cannot be folded into, before anything is changed."""
    for name, module in network.named_modules():
        if isinstance(module, Modulated):
            _check_linear(module.linear, f"{name}.linear")
    for number, block in enumerate(network.transformer_blocks):
        for name, module in block.named_modules():
            if hasattr(module, "weight_bits") or (
                isinstance(module, nn.Linear) and type(module) is not nn.Linear
            ):
                _check_linear(module, f"transformer_blocks.{number}.{name}")
    _check_linear(network.proj_out, "proj_out")


def _check_linear(layer: nn.Module, name: str) -> None:
    if type(layer) is not nn.Linear:
        raise UserError(
            f"pass 'strip': {name} is a {type(layer).__name__}, only a plain Linear can be folded; "
            "list strip before the passes that replace layers"
        )
