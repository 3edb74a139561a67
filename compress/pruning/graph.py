"""Which channel axes belong together in diffusers' UNets and autoencoders.

A `Space` is one set of channels that several layers share: the outputs of all layers that are added up, the inputs of
all that read the sum. A concatenated tensor is a list of spaces, so each half keeps its own channels. Torch-Pruning
(1.6) finds such groups by tracing, but ties q and k to v (attention counts as element-wise), does not know heads, and
needs values for an autograd pass, where planning has none. The blocks here are few and known.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from compress.core.errors import UserError


@dataclass(eq=False)
class Space:
    """`size` channels. Each of `heads` equal blocks keeps as many as the others; a `fixed` space keeps all.

    `groups` is the number of groups of a GroupNorm that normalises just this space, 0 without one. `matched` marks
    dimensions that exist only in a product of queries and keys.
    """

    size: int
    heads: int = 1
    fixed: bool = False
    groups: int = 0
    matched: bool = False

    def kept(self, ratio: float) -> int:
        """How many channels stay: int(ratio * size) for one head, as AdcSR counts."""
        return (
            self.size if self.fixed else max(1, int(ratio * (self.size // self.heads))) * self.heads
        )


Axis = list[Space]


def width(axis: Axis) -> int:
    return sum(space.size for space in axis)


@dataclass
class Axes:
    """The spaces along a layer's inputs and outputs; None where the layer has no such axis (a norm has no inputs)."""

    inputs: Axis | None
    outputs: Axis | None


@dataclass
class ChannelGraph:
    layers: dict[nn.Module, Axes] = field(default_factory=dict)
    attentions: list[Attention] = field(default_factory=list)

    def spaces(self) -> Iterator[Space]:
        """Every space once, in the order in which a run meets it."""
        seen = set()
        for axes in self.layers.values():
            for space in (axes.inputs or []) + (axes.outputs or []):
                if space not in seen:
                    seen.add(space)
                    yield space

    def layer(
        self, module: nn.Module | None, inputs: Axis | None, outputs: Axis | None
    ) -> Axis | None:
        if module is not None:
            self.layers[module] = Axes(inputs, outputs)
        return outputs

    def new(self, size: int, **options) -> Axis:
        return [Space(size, **options)]

    def norm(self, module: nn.Module | None, axis: Axis) -> None:
        if module is None:
            return
        self.layer(module, None, axis)
        if isinstance(module, nn.GroupNorm) and len(axis) == 1 and not axis[0].groups:
            axis[0].groups = module.num_groups

    def resnet(self, block: ResnetBlock2D, h: Axis) -> Axis:
        middle = self.new(block.conv1.out_channels)
        self.norm(block.norm1, h)
        self.layer(block.conv1, h, middle)
        if block.time_emb_proj is not None:
            self.layer(
                block.time_emb_proj, self.new(block.time_emb_proj.in_features, fixed=True), middle
            )
        self.norm(block.norm2, middle)
        out = h if block.conv_shortcut is None else self.new(block.conv2.out_channels)
        self.layer(block.conv_shortcut, h, out)
        return self.layer(block.conv2, middle, out)

    def attention(self, module: Attention, h: Axis) -> None:
        """Adds to `h`. Keys and values of another tensor (a text) keep that tensor's channels."""
        self.attentions.append(module)
        size, heads = module.inner_dim, module.heads
        queries = self.new(size, heads=heads, matched=True)
        values = self.new(size, heads=heads)
        source = (
            self.new(module.cross_attention_dim, fixed=True) if module.is_cross_attention else h
        )
        self.norm(module.group_norm, h)
        self.layer(module.to_q, h, queries)
        self.layer(module.to_k, source, queries)
        self.layer(module.to_v, source, values)
        self.layer(module.to_out[0], values, h)

    def transformer(self, module: Transformer2DModel, h: Axis) -> None:
        """Adds to `h`, through a residual stream of its own."""
        self.norm(module.norm, h)
        inner = self.layer(module.proj_in, h, self.new(module.inner_dim))
        for block in module.transformer_blocks:
            self.norm(block.norm1, inner)
            self.attention(block.attn1, inner)
            if block.attn2 is not None:
                self.norm(block.norm2, inner)
                self.attention(block.attn2, inner)
            self.norm(block.norm3, inner)
            [hidden] = self.new(block.ff.net[2].in_features)
            self.layer(block.ff.net[0].proj, inner, [hidden, hidden])  # GEGLU: values, then gates
            self.layer(block.ff.net[2], [hidden], inner)
        self.layer(module.proj_out, inner, h)

    def resample(self, modules: nn.ModuleList | None, h: Axis) -> Axis:
        for module in modules or ():
            h = self.layer(module.conv, h, self.new(module.conv.out_channels))
        return h

    def middle(self, block: nn.Module, h: Axis) -> Axis:
        h = self.resnet(block.resnets[0], h)
        for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
            if isinstance(attention, Transformer2DModel):
                self.transformer(attention, h)
            elif attention is not None:
                self.attention(attention, h)
            h = self.resnet(resnet, h)
        return h

    def tail(self, network: nn.Module, h: Axis) -> None:
        self.norm(network.conv_norm_out, h)
        self.layer(network.conv_out, h, self.new(network.conv_out.out_channels, fixed=True))


def _attentions(block: nn.Module) -> list[Transformer2DModel | None]:
    return list(getattr(block, "attentions", None) or [None] * len(block.resnets))


def unet_graph(unet: UNet2DConditionModel) -> ChannelGraph:
    graph = ChannelGraph()
    h = graph.layer(
        unet.conv_in,
        graph.new(unet.conv_in.in_channels, fixed=True),
        graph.new(unet.conv_in.out_channels),
    )
    skips = [h]
    for block in unet.down_blocks:
        for resnet, attention in zip(block.resnets, _attentions(block), strict=True):
            h = graph.resnet(resnet, h)
            if attention is not None:
                graph.transformer(attention, h)
            skips.append(h)
        if block.downsamplers:
            h = graph.resample(block.downsamplers, h)
            skips.append(h)
    h = graph.middle(unet.mid_block, h)
    for block in unet.up_blocks:
        for resnet, attention in zip(block.resnets, _attentions(block), strict=True):
            h = graph.resnet(resnet, h + skips.pop())
            if attention is not None:
                graph.transformer(attention, h)
        h = graph.resample(block.upsamplers, h)
    graph.tail(unet, h)
    return graph


def autoencoder_graph(half: Encoder | Decoder) -> ChannelGraph:
    """An autoencoder's encoder or decoder. A joined decoder has no `conv_in`: its inputs are fixed then."""
    graph = ChannelGraph()
    if isinstance(half.conv_in, nn.Conv2d):
        h = graph.layer(
            half.conv_in,
            graph.new(half.conv_in.in_channels, fixed=True),
            graph.new(half.conv_in.out_channels),
        )
    else:
        h = graph.new(half.mid_block.resnets[0].norm1.num_channels, fixed=True)
    if isinstance(half, Decoder):
        h = graph.middle(half.mid_block, h)
    for block in half.up_blocks if isinstance(half, Decoder) else half.down_blocks:
        for resnet in block.resnets:
            h = graph.resnet(resnet, h)
        h = graph.resample(block.upsamplers if isinstance(half, Decoder) else block.downsamplers, h)
    if isinstance(half, Encoder):
        h = graph.middle(half.mid_block, h)
    graph.tail(half, h)
    return graph


def channel_graph(component: nn.Module, name: str) -> ChannelGraph:
    """The graph of an SRModel's component. Raises UserError for one whose blocks are not known here."""
    from compress.folding.phases import PhaseUpsample
    from compress.pruning.depth import MiddleShortcut, Shortcut

    if any(isinstance(module, (Shortcut, MiddleShortcut)) for module in component.modules()):
        raise UserError(
            f"component '{name}' has lost blocks to depth_prune, and with them what binds its channels "
            "together; list prune before depth_prune"
        )
    if any(isinstance(module, PhaseUpsample) for module in component.modules()):
        raise UserError(
            f"component '{name}' enlarges by phases (strip's upsample), whose channels cannot be cut; list "
            "prune before that strip"
        )
    for attribute, kind, build in (
        ("unet", UNet2DConditionModel, unet_graph),
        ("encoder", Encoder, autoencoder_graph),
        ("decoder", Decoder, autoencoder_graph),
    ):
        network = getattr(component, attribute, None)
        if isinstance(network, kind):
            return build(network)
    raise UserError(
        f"component '{name}' is a {type(component).__name__}, whose channels cannot be pruned; choose a "
        "component with a UNet or an autoencoder's half"
    )
