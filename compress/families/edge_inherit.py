"""The small UNet of Edge-SD-SR from that of Stable Diffusion 1.5 or 2.1: levels and blocks mapped, channels sliced.

[KNOWN] from abstract and survey: the base is SD 1.5, its UNet cut from 860M to 158M. [REC], every detail ours:

| part       | from                                                                                             |
|------------|--------------------------------------------------------------------------------------------------|
| level i    | level i: both have their maps at 64, 32, 16 and 8                                                |
| its blocks | the first ones; on the way up the last one as well, which reads what the level above sent across |
| attention  | the base's at that place; cross-attention goes, with its norm; where the base has none, random   |
|            | behind a zero                                                                                    |
| channels   | of every tensor those that the largest weights read and write; of attentions whole heads first   |
| shortcut   | the identity where only the small UNet has one, because two levels of the base are equally wide  |
| conv_in    | the base's for z_t, 0 for mu_L                                                                   |
| timestep   | the base's at t = 999, in biases; the new embedding is random behind zeros                       |
"""

import pickle

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from safetensors import SafetensorError
from torch import nn

from compress.core.errors import UserError
from compress.core.tensors import few
from compress.core.weight_file import is_finite
from compress.model.sr_model import SRModel
from compress.networks.variants import variant_of
from compress.pruning.choose import best, choose
from compress.pruning.cut import keep_temperature
from compress.pruning.graph import Axis, ChannelGraph, Space, unet_graph
from compress.pruning.score import l1_scores

TIMESTEP = 999  # where OSEDiff's UNet restores


def random_values(model: SRModel, seed: int = 0) -> None:
    """Random values for a meta model, each module's own, whatever the random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.to_empty(device="cpu")
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()


def read_unet(base: str) -> UNet2DConditionModel:
    """The UNet under `base`, a folder in diffusers' layout or a hub id, in float32."""
    try:
        variant = variant_of(base, "unet")
        unet, report = UNet2DConditionModel.from_pretrained(
            base,
            subfolder="unet",
            torch_dtype=torch.float32,
            output_loading_info=True,
            variant=variant,
        )
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        SafetensorError,
        pickle.UnpicklingError,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UserError(
            f"source.base '{base}': cannot read unet/ ({reason}); give a folder of Stable Diffusion 1.5 or "
            "2.1 in diffusers' layout, or the id of a hub repository that can be reached"
        ) from None
    if absent := report["missing_keys"]:
        raise UserError(
            f"source.base '{base}': unet/ lacks {len(absent)} weights ({few(absent)}); fetch it again"
        )
    for name, tensor in unet.state_dict().items():
        if not is_finite(tensor):
            raise UserError(
                f"source.base '{base}': unet/, {name} holds NaN or infinity; fetch it again"
            )
    return unet


def trim(unet: UNet2DConditionModel, small: UNet2DConditionModel, where: str) -> None:
    """Leave of `unet`'s blocks those that `small` has, in place."""
    pairs = [(unet.down_blocks, small.down_blocks, False), (unet.up_blocks, small.up_blocks, True)]
    for blocks, likes, up in pairs:
        if len(blocks) != len(likes):
            raise UserError(
                f"{where}: its UNet has {len(blocks)} levels instead of {len(likes)}; give Stable "
                "Diffusion 1.5 or 2.1"
            )
        for block, like in zip(blocks, likes, strict=True):
            count, found = len(like.resnets), len(block.resnets)
            if found < count:
                raise UserError(
                    f"{where}: a level of its UNet has {found} residual blocks of the {count} that are "
                    "needed; give Stable Diffusion 1.5 or 2.1"
                )
            rows = [*range(count - 1), found - 1] if up else range(count)
            block.resnets = nn.ModuleList(block.resnets[row] for row in rows)
            if getattr(block, "attentions", None) is not None:
                keep = getattr(like, "attentions", None) is not None
                block.attentions = (
                    nn.ModuleList(block.attentions[row] for row in rows) if keep else None
                )


def places(index: dict[Space, torch.Tensor], axis: Axis, origin: Axis) -> torch.Tensor:
    """Where the channels of the small UNet's `axis` lie along the base's, `origin`."""
    parts, offset = [], 0
    for space, source in zip(axis, origin, strict=True):
        parts.append(index[space] + offset)
        offset += source.size
    return torch.cat(parts)


def matching(
    graph: ChannelGraph,
    names: dict[nn.Module, str],
    base: ChannelGraph,
    twins: dict[str, nn.Module],
    where: str,
) -> dict[Space, Space]:
    """Which space of the base each space of the small UNet is a part of."""
    found: dict[Space, Space] = {}
    for layer, axes in graph.layers.items():
        twin = base.layers.get(twins.get(names[layer]))
        for axis, origin in (
            () if twin is None else ((axes.inputs, twin.inputs), (axes.outputs, twin.outputs))
        ):
            for space, source in zip(axis or (), origin or (), strict=True):
                if found.setdefault(space, source) is not source:
                    raise UserError(
                        f"{where}: its UNet changes its width at {names[layer]}, where the small one does "
                        "not; give Stable Diffusion 1.5 or 2.1"
                    )
    return found


def heads_kept(
    space: Space, source: Space, heads: torch.Tensor, scores: torch.Tensor
) -> torch.Tensor:
    """Indices of the best channels in each of the base's `heads`."""
    size = source.size // source.heads
    rows = scores.view(source.heads, size)
    return torch.cat([best(rows[head], space.size // space.heads) + head * size for head in heads])


def kept(
    graph: ChannelGraph, found: dict[Space, Space], scores: dict[Space, torch.Tensor], where: str
) -> dict[Space, torch.Tensor]:
    """For each space of the small UNet the base's channels that it keeps, ascending."""
    index: dict[Space, torch.Tensor] = {}
    for attention in graph.attentions:
        queries, values = (
            graph.layers[layer].outputs[0] for layer in (attention.to_q, attention.to_v)
        )
        if queries not in found:
            continue
        sources = found[queries], found[values]
        if (
            queries.heads > sources[0].heads
            or queries.size // queries.heads > sources[0].size // sources[0].heads
        ):
            raise UserError(
                f"{where}: {queries.heads} heads of {queries.size // queries.heads} channels cannot be cut "
                f"from {sources[0].heads} of {sources[0].size // sources[0].heads}; set source.heads to "
                "sd15 for Stable Diffusion 1.5 and to sd21 for 2.1"
            )
        both = sum(scores[s].view(s.heads, -1).sum(1) / scores[s].sum() for s in sources)
        heads = best(both, queries.heads)
        for space, source in zip((queries, values), sources, strict=True):
            index[space] = heads_kept(space, source, heads, scores[source])
    for space, source in found.items():
        if space in index:
            continue
        if space.fixed:
            index[space] = torch.arange(min(space.size, source.size))
        elif space.size > source.size:
            raise UserError(
                f"{where}: {space.size} channels cannot be cut from {source.size}; give Stable Diffusion "
                "1.5 or 2.1"
            )
        else:
            index[space] = choose(source, (space.size + 0.5) / source.size, scores.get(source))
    return index


@torch.no_grad()
def inherit(small: UNet2DConditionModel, base: str) -> None:
    """Fill `small` from `base`, a folder in diffusers' layout or a hub id. Raises UserError where they do not fit."""
    from compress.passes.strip import (
        fold_timestep,
        remove_context,
    )  # the passes import compress.families

    where, source = f"source.base '{base}'", read_unet(base)
    trim(source, small, where)
    remove_context(source)
    fold_timestep(source, TIMESTEP)
    graph, origin, twins = unet_graph(small), unet_graph(source), dict(source.named_modules())
    names = {module: name for name, module in small.named_modules()}
    found = matching(graph, names, origin, twins, where)
    index = kept(graph, found, l1_scores(origin), where)
    for layer, axes in graph.layers.items():
        name, twin = names[layer], twins.get(names[layer])
        if twin in origin.layers:
            _copy(layer, axes, twin, origin.layers[twin], index)
        elif name.endswith("time_emb_proj"):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif name.endswith("conv_shortcut"):
            rows, columns = (index[axis[0]] for axis in (axes.outputs, axes.inputs))
            layer.weight.copy_((rows[:, None] == columns)[..., None, None])
            layer.bias.zero_()
        elif isinstance(parent := small.get_submodule(name.rpartition(".")[0]), Transformer2DModel):
            nn.init.zeros_(parent.proj_out.weight)
            nn.init.zeros_(parent.proj_out.bias)
    for attention in graph.attentions:
        if twin := twins.get(names[attention]):
            keep_temperature(attention, twin.inner_dim // twin.heads)


def _copy(
    layer: nn.Module, axes, twin: nn.Module, twin_axes, index: dict[Space, torch.Tensor]
) -> None:
    """`layer` from `twin`; a 1x1 convolution of SD 1.5 fills a linear layer. Inputs that the base lacks get 0."""
    out = places(index, axes.outputs, twin_axes.outputs)
    weight = twin.weight[out]
    if axes.inputs is not None:
        columns = places(index, axes.inputs, twin_axes.inputs)
        weight = weight[:, columns]
        layer.weight.zero_()
        layer.weight[:, : len(columns)] = weight.view(
            len(out), len(columns), *layer.weight.shape[2:]
        )
    else:
        layer.weight.copy_(weight)
    if layer.bias is not None:
        layer.bias.copy_(twin.bias[out])
