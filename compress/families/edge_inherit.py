"""The small UNet of Edge-SD-SR from that of Stable Diffusion 1.5 or 2.1.

Levels and blocks are mapped, channels are sliced.

[KNOWN] from abstract and survey: the base is SD 1.5, its UNet cut from 860M to 158M. [REC], every
detail ours:

| part       | from                                                                                |
|------------|-------------------------------------------------------------------------------------|
| level i    | level i: both have their maps at 64, 32, 16 and 8                                   |
| its blocks | the first ones; on the way up the last one as well, which reads what the level      |
|            | above sent across                                                                   |
| attention  | the base's at that place; cross-attention goes, with its norm; where the base has   |
|            | none, random behind a zero                                                          |
| channels   | of every tensor those that the largest weights read and write; of attentions whole  |
|            | heads first                                                                         |
| shortcut   | the identity where only the small UNet has one, because two levels of the base are  |
|            | equally wide                                                                        |
| conv_in    | the base's for z_t, 0 for mu_L                                                      |
| timestep   | the base's at t = 999, in biases; the new embedding is random behind zeros          |
"""

from typing import NamedTuple

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from compress.core.errors import UserError
from compress.families.edge_base import EITHER, read_unet, trim
from compress.folding.conditions import fold_timesteps, remove_context
from compress.pruning.choose import best, choose
from compress.pruning.cut import keep_temperature
from compress.pruning.graph import Axes, Axis, ChannelGraph, Space
from compress.pruning.networks import unet_graph
from compress.pruning.score import l1_scores

TIMESTEP = 999  # where OSEDiff's UNet restores

# Of a space of the small UNet, which of the base's channels it keeps, ascending.
Index = dict[Space, torch.Tensor]


@torch.no_grad()
def inherit(small: UNet2DConditionModel, base: str) -> None:
    """Fill the UNet `small` from a published one.

    Args:
        small: A UNet of diffusers without cross-attention.
        base: A folder in diffusers' layout, or a hub id.

    Raises:
        UserError: The base cannot be read, or the two do not fit.
    """
    where = f"source.base '{base}'"
    source = read_unet(base)
    trim(source, small, where)
    remove_context(source)
    fold_timesteps(source, [TIMESTEP])
    cut_from(small, source, where)


@torch.no_grad()
def cut_from(small: UNet2DConditionModel, source: UNet2DConditionModel, where: str) -> None:
    """Fill the UNet `small` with the channels of a wider one that its largest weights use.

    Args:
        small: Has the same levels, or fewer blocks. Its time embedding is left alone.
        source: The wider one.
        where: What begins the sentence of an error.

    Raises:
        UserError: The two do not fit.
    """
    pair = _Pair(
        unet_graph(small),
        unet_graph(source),
        {module: name for name, module in small.named_modules()},
        dict(source.named_modules()),
    )
    origins = matching(pair, where)
    index = kept(pair.graph, origins, l1_scores(pair.base), where)
    for layer in pair.graph.layers:
        _fill(layer, pair, small, index)
    for attention in pair.graph.attentions:
        twin = pair.twins.get(pair.names[attention])
        if isinstance(twin, Attention):
            keep_temperature(attention, twin.inner_dim // twin.heads)


class _Pair(NamedTuple):
    """The small UNet and the base.

    Attributes:
        graph: Channels of the small UNet.
        base: Channels of the base.
        names: Names of the small UNet's modules.
        twins: The base's modules by the same names.
    """

    graph: ChannelGraph
    base: ChannelGraph
    names: dict[nn.Module, str]
    twins: dict[str, nn.Module]


def matching(pair: _Pair, where: str) -> dict[Space, Space]:
    """Which space of the base each space of the small UNet is a part of.

    Raises:
        UserError: The base changes its width where the small UNet does not.
    """
    origins: dict[Space, Space] = {}
    for layer, axes in pair.graph.layers.items():
        twin_axes = _twin_axes(layer, pair)
        if twin_axes is None:
            continue
        for axis, twin_axis in (
            (axes.inputs, twin_axes.inputs),
            (axes.outputs, twin_axes.outputs),
        ):
            for space, origin in zip(axis or (), twin_axis or (), strict=True):
                if origins.setdefault(space, origin) is not origin:
                    raise UserError(
                        f"{where}: its UNet changes its width at {pair.names[layer]}, where the "
                        f"small one does not; {EITHER}"
                    )
    return origins


def _twin_axes(layer: nn.Module, pair: _Pair) -> Axes | None:
    """The axes of the base's layer of the same name; None where it has none."""
    twin = pair.twins.get(pair.names[layer])
    if twin is None:
        return None
    return pair.base.layers.get(twin)


def kept(
    graph: ChannelGraph, origins: dict[Space, Space], scores: dict[Space, torch.Tensor], where: str
) -> Index:
    """For each space of the small UNet the base's channels that it keeps, ascending.

    Args:
        graph: Of the small UNet.
        origins: From `matching`.
        scores: How large the weights are that read and write each channel of the base.
        where: What begins the sentence of an error.

    Raises:
        UserError: The small UNet is wider than the base.
    """
    index: Index = {}
    for attention in graph.attentions:
        queries = _outputs(graph.layers[attention.to_q])[0]
        values = _outputs(graph.layers[attention.to_v])[0]
        if queries not in origins:
            continue
        of_queries, of_values = origins[queries], origins[values]
        _check_heads(queries, of_queries, where)
        shares = _head_shares(of_queries, scores) + _head_shares(of_values, scores)
        heads = best(shares, queries.heads)
        index[queries] = heads_kept(queries, of_queries, heads, scores[of_queries])
        index[values] = heads_kept(values, of_values, heads, scores[of_values])
    for space, source in origins.items():
        if space not in index:
            index[space] = _channels_kept(space, source, scores.get(source), where)
    return index


def _outputs(axes: Axes) -> Axis:
    """The spaces of a layer's outputs. Raises ValueError for a layer without any."""
    if axes.outputs is None:
        raise ValueError("the layer has no axis of outputs")
    return axes.outputs


def _inputs(axes: Axes) -> Axis:
    """The spaces of a layer's inputs. Raises ValueError for a layer without any."""
    if axes.inputs is None:
        raise ValueError("the layer has no axis of inputs")
    return axes.inputs


def _check_heads(space: Space, source: Space, where: str) -> None:
    """Refuse heads that are more or wider than the base's."""
    size = space.size // space.heads
    source_size = source.size // source.heads
    if space.heads > source.heads or size > source_size:
        raise UserError(
            f"{where}: {space.heads} heads of {size} channels cannot be cut from {source.heads} of "
            f"{source_size}; set source.heads to sd15 for Stable Diffusion 1.5 and to sd21 for 2.1"
        )


def _head_shares(source: Space, scores: dict[Space, torch.Tensor]) -> torch.Tensor:
    """Each head's share of the scores of its space."""
    own = scores[source]
    return own.view(source.heads, -1).sum(1) / own.sum()


def heads_kept(
    space: Space, source: Space, heads: torch.Tensor, scores: torch.Tensor
) -> torch.Tensor:
    """Indices of the best channels in each of the base's `heads`."""
    size = source.size // source.heads
    rows = scores.view(source.heads, size)
    count = space.size // space.heads
    return torch.cat([best(rows[head], count) + head * size for head in heads])


def _channels_kept(
    space: Space, source: Space, scores: torch.Tensor | None, where: str
) -> torch.Tensor:
    """Indices of the best channels of a space that is in no attention."""
    if space.fixed:
        return torch.arange(min(space.size, source.size))
    if space.size > source.size:
        raise UserError(
            f"{where}: {space.size} channels cannot be cut from {source.size}; {EITHER}"
        )
    # `choose` rounds the number of channels down, so half a channel more gives just this many.
    return choose(source, (space.size + 0.5) / source.size, scores)


def places(index: Index, axis: Axis, origin: Axis) -> torch.Tensor:
    """Where the channels of the small UNet's `axis` lie along the base's, `origin`."""
    parts = []
    offset = 0
    for space, source in zip(axis, origin, strict=True):
        parts.append(index[space] + offset)
        offset += source.size
    return torch.cat(parts)


def _fill(layer: nn.Module, pair: _Pair, small: nn.Module, index: Index) -> None:
    """The values of one layer, from its twin, or so that it changes nothing at first."""
    name = pair.names[layer]
    axes = pair.graph.layers[layer]
    twin_axes = _twin_axes(layer, pair)
    if twin_axes is not None:
        _copy(layer, axes, pair.twins[name], twin_axes, index)
    elif name.endswith("time_emb_proj"):
        _zero(layer)
    elif name.endswith("conv_shortcut"):
        rows = index[_outputs(axes)[0]]
        columns = index[_inputs(axes)[0]]
        identity = rows[:, None] == columns
        layer.get_parameter("weight").copy_(identity[..., None, None])
        layer.get_parameter("bias").zero_()
    else:
        parent = small.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, Transformer2DModel):
            _zero(parent.proj_out)


def _zero(layer: nn.Module) -> None:
    nn.init.zeros_(layer.get_parameter("weight"))
    nn.init.zeros_(layer.get_parameter("bias"))


def _copy(layer: nn.Module, axes: Axes, twin: nn.Module, twin_axes: Axes, index: Index) -> None:
    """`layer` from `twin`; a 1x1 convolution of SD 1.5 fills a linear layer.

    Inputs that the base lacks get 0.
    """
    weight = layer.get_parameter("weight")
    rows = places(index, _outputs(axes), _outputs(twin_axes))
    values = twin.get_parameter("weight")[rows]
    if axes.inputs is None:
        weight.copy_(values)
    else:
        columns = places(index, axes.inputs, _inputs(twin_axes))
        values = values[:, columns]
        weight.zero_()
        shape = (len(rows), len(columns), *weight.shape[2:])
        weight[:, : len(columns)] = values.view(shape)
    if getattr(layer, "bias", None) is not None:
        layer.get_parameter("bias").copy_(twin.get_parameter("bias")[rows])
