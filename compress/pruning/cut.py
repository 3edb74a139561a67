"""Cutting channels out of layers, on the meta device as on real values."""

import math
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import nn

from compress.core.errors import UserError
from compress.folding.conditions import StepBiases
from compress.networks.latent_diffusion import ConstantProjection
from compress.networks.mmdit_block import ConstantTokens, JointAttention
from compress.pruning.choose import Score, adcsr_groups, aligned_groups, choose
from compress.pruning.graph import Axis, ChannelGraph, Space
from compress.pruning.observe import Moments

PLAIN = (
    nn.Conv2d,
    nn.Linear,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.PReLU,
    ConstantProjection,
    ConstantTokens,
    StepBiases,
)
# The attributes in which layers say their size.
INPUTS = {nn.Conv2d: "in_channels", nn.Linear: "in_features"}
OUTPUTS = {nn.Conv2d: "out_channels", nn.Linear: "out_features", nn.GroupNorm: "num_channels"}
Kept = dict[Space, torch.Tensor]


def gather(axis: Axis, kept: Kept) -> torch.Tensor:
    """Indices of the kept channels along a concatenated axis, ascending."""
    parts = []
    offset = 0
    for space in axis:
        parts.append(kept[space] + offset)
        offset += space.size
    return torch.cat(parts)


def _narrow(parameter: torch.Tensor, dim: int, index: torch.Tensor) -> nn.Parameter:
    values = parameter.detach().index_select(dim, index.to(parameter.device)).contiguous()
    return nn.Parameter(values, requires_grad=parameter.requires_grad)


def cut_outputs(layer: nn.Module, index: torch.Tensor) -> None:
    """Keep the output channels `index` of a layer, or the channels of a norm."""
    if isinstance(layer, ConstantProjection):
        layer.value = _narrow(layer.value, 2, index)
        return
    if isinstance(layer, ConstantTokens):
        layer.value = layer.value.index_select(2, index.to(layer.value.device)).contiguous()
        return
    if isinstance(layer, StepBiases):
        layer.biases = _narrow(layer.biases, 1, index)
        return
    if isinstance(layer, nn.PReLU):
        layer.weight = _narrow(layer.weight, 0, index)
        layer.num_parameters = len(index)
        return
    if not isinstance(layer, (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm)):
        raise TypeError(f"a {type(layer).__name__} has no channels to cut")
    layer.weight = _narrow(layer.weight, 0, index)
    if isinstance(layer.bias, nn.Parameter):
        layer.bias = _narrow(layer.bias, 0, index)
    if isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = (len(index),)
    else:
        setattr(layer, OUTPUTS[type(layer)], len(index))


def cut_inputs(layer: nn.Module, index: torch.Tensor) -> None:
    """Keep the input channels `index` of a layer; a constant has none."""
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        layer.weight = _narrow(layer.weight, 1, index)
        setattr(layer, INPUTS[type(layer)], len(index))
    elif not isinstance(layer, ConstantProjection):
        raise TypeError(f"a {type(layer).__name__} has no inputs to cut")


@torch.no_grad()
def keep_temperature(attention: Attention, before: int) -> None:
    """Scale the queries so that scores keep their size when heads get smaller.

    Scaled dot products divide by the root of the head size, `before` and now.
    """
    queries: nn.Linear = attention.to_q
    after = queries.out_features // attention.heads
    factor = math.sqrt(after / before)
    queries.weight.mul_(factor)
    if queries.bias is not None:
        queries.bias.mul_(factor)


def _refresh(module: Any) -> None:
    """Set the sizes that diffusers' modules repeat in attributes, some of which they read."""
    if isinstance(module, ResnetBlock2D):
        module.in_channels = module.norm1.num_channels
        module.out_channels = module.conv2.out_channels
    elif isinstance(module, (Downsample2D, Upsample2D)):
        conv: Any = module.conv
        module.channels = conv.in_channels
        module.out_channels = conv.out_channels
    elif isinstance(module, Transformer2DModel):
        module.in_channels = module.norm.num_channels
        module.out_channels = module.norm.num_channels
        module.inner_dim = module.proj_in.weight.shape[0]
    elif isinstance(module, Attention):
        _refresh_attention(module)
    elif isinstance(module, JointAttention):
        queries: Any = module.to_q
        module.heads = queries.out_features // module.head_channels


def _refresh_attention(module: Any) -> None:
    module.inner_dim = module.to_q.out_features
    module.inner_kv_dim = module.to_q.out_features
    module.query_dim = module.to_q.in_features
    module.out_dim = module.to_out[0].out_features
    if not module.is_cross_attention:
        module.cross_attention_dim = module.query_dim
    module.scale = (module.inner_dim // module.heads) ** -0.5


def cut(
    component: nn.Module,
    graph: ChannelGraph,
    ratio: float,
    score: Score | None,
    moments: Moments | None = None,
) -> None:
    """Keep `ratio` of every space of a component.

    Args:
        component: Changed in place.
        graph: Its channel graph.
        ratio: In (0, 1].
        score: Gives a space's scores. Channels are chosen per space then and stay aligned wherever
            they are used. Without it every axis of every layer keeps its own first channels, as
            AdcSR does: the halves of a concatenation, of a GEGLU and the heads shift against each
            other.
        moments: With them the layers that read a cut tensor make up for what they lose.

    Raises:
        UserError: A layer is none of `PLAIN`.
    """
    _check_plain(component, graph)
    head_sizes = {a: a.inner_dim // a.heads for a in graph.attentions}
    kept: Kept = {}
    # The number of groups is structure: it may depend on the config, not on which channels the
    # values favour.
    typical: Kept = {}
    for space in graph.spaces():
        kept[space] = choose(space, ratio, score(space) if score else None)
        typical[space] = choose(space, ratio, None)
    for layer, axes in graph.layers.items():
        if axes.inputs is not None and _loses_channels(axes.inputs, kept):
            index = gather(axes.inputs, kept)
            if moments is not None and isinstance(layer, (nn.Conv2d, nn.Linear)):
                _compensate(moments, layer, index)
            cut_inputs(layer, index if score else torch.arange(len(index)))
        if _loses_channels(axes.outputs, kept):
            index = gather(axes.outputs, kept)
            if isinstance(layer, nn.GroupNorm):
                if score:
                    layer.num_groups = aligned_groups(axes.outputs, typical, layer.num_groups)
                else:
                    layer.num_groups = adcsr_groups(len(index))
            cut_outputs(layer, index if score else torch.arange(len(index)))
    for module in component.modules():
        _refresh(module)
    if score:
        for attention, size in head_sizes.items():
            keep_temperature(attention, size)


def _check_plain(component: nn.Module, graph: ChannelGraph) -> None:
    """Raise UserError for a layer that a pass has replaced."""
    names = {module: name for name, module in component.named_modules()}
    for layer in graph.layers:
        if type(layer) not in PLAIN:
            raise UserError(
                f"{names[layer]} is a {type(layer).__name__}, whose channels cannot be cut; list "
                "the passes that prune before those that replace layers"
            )


def _compensate(moments: Moments, layer: nn.Conv2d | nn.Linear, index: torch.Tensor) -> None:
    """Let a layer that was observed make up for the inputs that it loses."""
    if layer in moments:
        moments.compensate(layer, index)


def _loses_channels(axis: Axis, kept: Kept) -> bool:
    return any(len(kept[space]) != space.size for space in axis)
