"""Cutting channels out of layers, on the meta device as on real values."""

import math

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import nn

from compress.core.errors import UserError
from compress.networks.latent_diffusion import ConstantProjection
from compress.pruning.choose import Score, adcsr_groups, aligned_groups, choose
from compress.pruning.graph import Axis, ChannelGraph, Space
from compress.pruning.observe import Moments

PLAIN = (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm, ConstantProjection)


def gather(axis: Axis, kept: dict[Space, torch.Tensor]) -> torch.Tensor:
    """Indices along a concatenated axis."""
    parts, offset = [], 0
    for space in axis:
        parts.append(kept[space] + offset)
        offset += space.size
    return torch.cat(parts)


def _narrow(parameter: nn.Parameter, dim: int, index: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(
        parameter.detach().index_select(dim, index.to(parameter.device)).contiguous(),
        requires_grad=parameter.requires_grad,
    )


def cut_outputs(layer: nn.Module, index: torch.Tensor) -> None:
    """Keep the output channels `index` of a layer, or the channels of a norm."""
    if isinstance(layer, ConstantProjection):
        layer.value = _narrow(layer.value, 2, index)
        return
    layer.weight = _narrow(layer.weight, 0, index)
    if layer.bias is not None:
        layer.bias = _narrow(layer.bias, 0, index)
    if isinstance(layer, nn.Conv2d):
        layer.out_channels = len(index)
    elif isinstance(layer, nn.Linear):
        layer.out_features = len(index)
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels = len(index)
    else:
        layer.normalized_shape = (len(index),)


def cut_inputs(layer: nn.Module, index: torch.Tensor) -> None:
    if isinstance(layer, ConstantProjection):
        return
    layer.weight = _narrow(layer.weight, 1, index)
    setattr(layer, "in_channels" if isinstance(layer, nn.Conv2d) else "in_features", len(index))


def keep_temperature(attention: Attention, before: int) -> None:
    """Scaled dot products divide by the root of the head size, `before` and now: queries carry the difference."""
    after = attention.to_q.out_features // attention.heads
    factor = math.sqrt(after / before)
    with torch.no_grad():
        attention.to_q.weight *= factor
        if attention.to_q.bias is not None:
            attention.to_q.bias *= factor


def _refresh(module: nn.Module) -> None:
    """diffusers' modules repeat their sizes in attributes, some of which their forward reads."""
    if isinstance(module, ResnetBlock2D):
        module.in_channels, module.out_channels = (
            module.norm1.num_channels,
            module.conv2.out_channels,
        )
    elif isinstance(module, (Downsample2D, Upsample2D)):
        module.channels, module.out_channels = module.conv.in_channels, module.conv.out_channels
    elif isinstance(module, Transformer2DModel):
        module.in_channels = module.out_channels = module.norm.num_channels
        module.inner_dim = module.proj_in.weight.shape[0]
    elif isinstance(module, Attention):
        module.inner_dim = module.inner_kv_dim = module.to_q.out_features
        module.query_dim, module.out_dim = module.to_q.in_features, module.to_out[0].out_features
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
    """Keep `ratio` of every space of `graph`, the channel graph of `component`.

    With `score` channels are chosen per space and stay aligned wherever they are used. Without, every axis of every
    layer keeps its own first channels, as AdcSR does: the halves of a concatenation, of a GEGLU and the heads shift
    against each other. With `moments` the layers that read a cut tensor make up for what they lose.
    """
    names = {module: name for name, module in component.named_modules()}
    for layer in graph.layers:
        if type(layer) not in PLAIN:
            raise UserError(
                f"{names[layer]} is a {type(layer).__name__}, whose channels cannot be cut; list the "
                "passes that prune before those that replace layers"
            )
    head_sizes = {a: a.inner_dim // a.heads for a in graph.attentions}
    kept = {
        space: choose(space, ratio, score(space) if score else None) for space in graph.spaces()
    }
    # The number of groups is structure: it may depend on the config, not on which channels the values favour.
    typical = {space: choose(space, ratio, None) for space in graph.spaces()}
    for layer, axes in graph.layers.items():
        for axis, cut_axis in ((axes.inputs, cut_inputs), (axes.outputs, cut_outputs)):
            if axis is None or all(len(kept[space]) == space.size for space in axis):
                continue
            index = gather(axis, kept)
            if isinstance(layer, nn.GroupNorm):
                layer.num_groups = (
                    aligned_groups(axis, typical, layer.num_groups)
                    if score
                    else adcsr_groups(len(index))
                )
            if cut_axis is cut_inputs and moments is not None and layer in moments:
                moments.compensate(layer, index)
            cut_axis(layer, index if score else torch.arange(len(index)))
    for module in component.modules():
        _refresh(module)
    if score:
        for attention, size in head_sizes.items():
            keep_temperature(attention, size)
