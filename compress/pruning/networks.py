"""The channel graphs of components: UNets, control networks, transformers, autoencoders.

A control network's residuals are added to the skips of a UNet. So its last convolutions are cut
with the UNet's channels.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from compress.core.errors import UserError
from compress.folding.phases import PhaseUpsample
from compress.model.sr_model import SRModel
from compress.networks.control import ControlNetwork
from compress.networks.mmdit import MMDiT
from compress.networks.near_attention import NearAttention, NoAttention
from compress.networks.noise_predictor import TimedEncoder
from compress.pruning.depth import MiddleShortcut, Shortcut
from compress.pruning.graph import Axis, Block, ChannelGraph


def unet_graph(unet: UNet2DConditionModel) -> ChannelGraph:
    """The graph of a UNet of diffusers."""
    graph = ChannelGraph()
    through_unet(graph, unet)
    return graph


def through_unet(graph: ChannelGraph, unet: Block) -> list[Axis]:
    """Go through a UNet; returns the axes of its skips and of what its middle block puts out."""
    h = first_convolution(graph, unet.conv_in)
    last, made = graph.way_down(unet.down_blocks, h)
    skips = [h, *made]
    h = graph.middle(unet.mid_block, last)
    found = [*skips, h]
    blocks: Iterable[Block] = unet.up_blocks
    for block in blocks:
        h = graph.level(block, h, skips)
    graph.tail(unet, h)
    return found


def through_control(
    graph: ChannelGraph, control: Block, hint: nn.Module | None, residuals: Sequence[Axis]
) -> None:
    """Go through a control network, whose last convolutions make `residuals`.

    The last convolution of `hint` is added to what its first one makes.
    """
    h = first_convolution(graph, control.conv_in)
    convolutions = [] if hint is None else [m for m in hint.modules() if isinstance(m, nn.Conv2d)]
    if convolutions:
        last = convolutions[-1]
        graph.layer(last, graph.new(last.in_channels, fixed=True), h)
    deepest, made = graph.way_down(control.down_blocks, h)
    middle = graph.middle(control.mid_block, deepest)
    makers = [*control.controlnet_down_blocks, control.controlnet_mid_block]
    for conv, source, residual in zip(makers, [h, *made, middle], residuals, strict=True):
        graph.layer(conv, source, residual)


def predictor_graph(network: TimedEncoder) -> ChannelGraph:
    """The graph of a noise predictor's encoder."""
    graph = ChannelGraph()
    h, _ = graph.way_down(network.down_blocks, first_convolution(graph, network.conv_in))
    graph.tail(network, graph.middle(network.mid_block, h))
    return graph


def encoder_graph(half: Encoder) -> ChannelGraph:
    """The graph of an autoencoder's encoder."""
    graph = ChannelGraph()
    h = first_convolution(graph, half.conv_in)
    blocks: Iterable[Block] = half.down_blocks
    for block in blocks:
        for resnet in block.resnets:
            h = graph.resnet(resnet, h)
        h = graph.resample(block.downsamplers, h)
    graph.tail(half, graph.middle(half.mid_block, h))
    return graph


def decoder_graph(half: Decoder) -> ChannelGraph:
    """The graph of an autoencoder's decoder.

    One that `decoder_join` has joined to the UNet has no first convolution. Its inputs are fixed
    then.
    """
    graph = ChannelGraph()
    middle: Block = half.mid_block
    if isinstance(half.conv_in, nn.Conv2d):
        h = first_convolution(graph, half.conv_in)
    else:
        h = graph.new(middle.resnets[0].norm1.num_channels, fixed=True)
    h = graph.middle(middle, h)
    blocks: Iterable[Block] = half.up_blocks
    for block in blocks:
        for resnet in block.resnets:
            h = graph.resnet(resnet, h)
        h = graph.resample(block.upsamplers, h)
    graph.tail(half, h)
    return graph


def joint_graph(network: MMDiT) -> ChannelGraph:
    """The graph of SD 3's transformer: heads, and the hidden channels of its feed-forwards.

    The channels of a token stay: a LayerNorm without weights sees all of them, so cutting some is
    never exact, and in the published size they are one space of 24 blocks and two streams.
    """
    graph = ChannelGraph()
    tokens = graph.new(network.proj_out.in_features, fixed=True)
    for block in network.joint_blocks():
        graph.joint_block(block, tokens)
    return graph


def is_compact(component: nn.Module) -> bool:
    """Whether a component is Real-ESRGAN-Compact, by the name that spandrel and its authors use."""
    return type(component).__name__ == "SRVGGNetCompact"


def compact_graph(network: Block) -> ChannelGraph:
    """The graph of Real-ESRGAN-Compact: convolutions and activations, one behind the other.

    Each convolution reads what the one before it makes, and the last one makes pixels.
    """
    graph = ChannelGraph()
    convolutions = [layer for layer in network.body if hasattr(layer, "out_channels")]
    h = graph.new(convolutions[0].in_channels, fixed=True)
    for layer in network.body:
        if hasattr(layer, "out_channels"):
            made = graph.new(layer.out_channels, fixed=layer is convolutions[-1])
            h = graph.layer(layer, h, made)
        elif getattr(layer, "num_parameters", 1) > 1:  # a PReLU with a slope for each channel
            graph.layer(layer, None, h)
    return graph


def first_convolution(graph: ChannelGraph, conv: Block) -> Axis:
    """Go through a first convolution, whose inputs are fixed."""
    return graph.layer(conv, graph.new(conv.in_channels, fixed=True), graph.new(conv.out_channels))


def channel_graph(component: nn.Module, name: str) -> ChannelGraph:
    """The graph of an SRModel's component.

    Args:
        component: Has a UNet, SD 3's transformer or an autoencoder's half, or is
            Real-ESRGAN-Compact.
        name: Of the component, for messages.

    Raises:
        UserError: The component's blocks are not known here, or passes have changed them.
    """
    transformer = getattr(component, "transformer", None)
    if isinstance(transformer, MMDiT):
        return joint_graph(transformer)
    check_whole(component, name)
    unet = getattr(component, "unet", None)
    encoder = getattr(component, "encoder", None)
    decoder = getattr(component, "decoder", None)
    if isinstance(unet, UNet2DConditionModel):
        return unet_graph(unet)
    if isinstance(encoder, TimedEncoder):
        return predictor_graph(encoder)
    if isinstance(encoder, Encoder):
        return encoder_graph(encoder)
    if isinstance(decoder, Decoder):
        return decoder_graph(decoder)
    if is_compact(component):
        return compact_graph(component)
    raise UserError(
        f"component '{name}' is a {type(component).__name__}, whose channels cannot be pruned; "
        "choose a component with a UNet, SD 3's transformer or an autoencoder's half, or a network "
        "of Real-ESRGAN-Compact"
    )


def check_whole(component: nn.Module, name: str) -> None:
    """Refuse a component in which passes have replaced blocks.

    Args:
        component: The component.
        name: Its name, for messages.

    Raises:
        UserError: They have.
    """
    if any(isinstance(module, (Shortcut, MiddleShortcut)) for module in component.modules()):
        raise UserError(
            f"component '{name}' has lost blocks to depth_prune, and with them what binds its "
            "channels together; list prune before depth_prune"
        )
    if any(isinstance(module, (NearAttention, NoAttention)) for module in component.modules()):
        raise UserError(
            f"component '{name}' has attentions of near_attention, whose channels cannot be cut; "
            "list prune before near_attention"
        )
    if any(isinstance(module, PhaseUpsample) for module in component.modules()):
        raise UserError(
            f"component '{name}' enlarges by phases (strip's upsample), whose channels cannot be "
            "cut; list prune before that strip"
        )


class Bound(NamedTuple):
    """Components whose channels are cut together.

    Attributes:
        parts: Them, under their names.
        graph: Of all of them.
    """

    parts: nn.ModuleDict
    graph: ChannelGraph


def bound_parts(model: SRModel, name: str, components: Sequence[str]) -> Bound | None:
    """What is cut for a component of `components`; None where it is cut with another one.

    A UNet takes the last convolutions of its control network with it. Where both are listed the
    whole of both is one graph.

    Raises:
        UserError: The channels of a component cannot be cut.
    """
    part = model.component(name, "pruning")
    control_name = _control_of(model)
    if control_name is None or name not in ("denoiser", control_name):
        return Bound(nn.ModuleDict({name: part}), channel_graph(part, name))
    if name == control_name and "denoiser" in components:
        return None
    control = model.component(control_name, "pruning")
    parts = {name: part, control_name: control}
    for each, module in parts.items():
        check_whole(module, each)
    graph = ChannelGraph()
    if name == control_name:
        residuals = [
            graph.new(conv.out_channels, fixed=True)
            for conv in (*control.controlnet_down_blocks, control.controlnet_mid_block)
        ]
    else:
        residuals = through_unet(graph, part.unet)
    if control_name in components:
        hint_name = _maker(model, model.wiring.call(control_name).inputs[1])
        hint = model.component(hint_name, "pruning")
        through_control(graph, control, hint, residuals)
        parts[hint_name] = hint
    else:
        makers = (*control.controlnet_down_blocks, control.controlnet_mid_block)
        for conv, residual in zip(makers, residuals, strict=True):
            graph.layer(conv, graph.new(conv.in_channels, fixed=True), residual)
    return Bound(nn.ModuleDict(parts), graph)


def _control_of(model: SRModel) -> str | None:
    """The name of the model's control network, None without one."""
    for name, part in model.components():
        if isinstance(part, ControlNetwork):
            return name
    return None


def _maker(model: SRModel, value: str) -> str:
    """The component that makes a value."""
    return next(call.component for call in model.wiring.calls if value in call.outputs)
