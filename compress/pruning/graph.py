"""Which channel axes belong together in diffusers' blocks.

A *space* is one set of channels that several layers share: the outputs of all layers that are added
up, the inputs of all that read the sum. An *axis* is a list of spaces, so that each half of a
concatenated tensor keeps its own channels.

Torch-Pruning (1.6) finds such groups by tracing. It ties q and k to v, because attention counts as
element-wise there, it does not know heads, and it needs values for an autograd pass, where planning
has none. The blocks here are few and known.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from compress.folding.conditions import StepBiases
from compress.networks.image_prompt import PromptedAttention
from compress.networks.mmdit_block import ConstantTokens

# A block of diffusers. Its attributes are read by their names; torch declares each of them as
# "tensor or module".
Block = Any


@dataclass(eq=False)
class Space:
    """One set of channels.

    Attributes:
        size: How many channels.
        heads: Each of so many equal blocks keeps as many channels as the others.
        fixed: Whether all channels stay.
        groups: The groups of a GroupNorm that normalises just this space, 0 without one.
        matched: Whether these are dimensions that exist only in a product of queries and keys.
        unit: So many neighbours stay or go together, such as those of a head that goes as a whole.
    """

    size: int
    heads: int = 1
    fixed: bool = False
    groups: int = 0
    matched: bool = False
    unit: int = 1

    def kept(self, ratio: float) -> int:
        """How many channels stay: int(ratio * size) for one head, as AdcSR counts."""
        if self.fixed:
            return self.size
        units = self.size // self.heads // self.unit
        return max(1, int(ratio * units)) * self.unit * self.heads


Axis = list[Space]


def width(axis: Axis) -> int:
    """Channels of all spaces of an axis."""
    return sum(space.size for space in axis)


@dataclass
class Axes:
    """The spaces along a layer's inputs and outputs.

    A norm has no inputs, for it changes no channels; its own are its outputs.
    """

    inputs: Axis | None
    outputs: Axis


@dataclass
class ChannelGraph:
    """The axes of every layer of a component.

    The methods go through a component in the order of its run. Each takes the axis of the tensor
    that comes and returns that of the tensor that leaves.
    """

    layers: dict[nn.Module, Axes] = field(default_factory=dict)
    attentions: list[Attention] = field(default_factory=list)

    def spaces(self) -> Iterator[Space]:
        """Every space once, in the order in which a run meets it."""
        seen = set()
        for axes in self.layers.values():
            for space in (axes.inputs or []) + axes.outputs:
                if space not in seen:
                    seen.add(space)
                    yield space

    def layer(self, module: nn.Module | None, inputs: Axis | None, outputs: Axis) -> Axis:
        """Note a layer's axes; None stands for a layer that is not there."""
        if module is not None:
            self.layers[module] = Axes(inputs, outputs)
        return outputs

    def new(self, size: int, **options) -> Axis:
        """An axis of one new space; the options are those of `Space`."""
        return [Space(size, **options)]

    def norm(self, module: nn.Module | None, axis: Axis) -> None:
        """Note a norm over `axis`."""
        if module is None:
            return
        self.layer(module, None, axis)
        if isinstance(module, nn.GroupNorm) and len(axis) == 1 and not axis[0].groups:
            axis[0].groups = module.num_groups

    def resnet(self, block: Block, h: Axis) -> Axis:
        """Go through a residual block."""
        middle = self.new(block.conv1.out_channels)
        self.norm(block.norm1, h)
        self.layer(block.conv1, h, middle)
        time = block.time_emb_proj
        if isinstance(time, StepBiases):
            self.layer(time, None, middle)
        elif time is not None:
            self.layer(time, self.new(time.in_features, fixed=True), middle)
        self.norm(block.norm2, middle)
        out = h if block.conv_shortcut is None else self.new(block.conv2.out_channels)
        self.layer(block.conv_shortcut, h, out)
        return self.layer(block.conv2, middle, out)

    def attention(self, module: Attention, h: Axis) -> None:
        """Go through an attention that adds to `h`.

        Keys and values of another tensor (a text) keep that tensor's channels.
        """
        self.attentions.append(module)
        queries = self.new(module.inner_dim, heads=module.heads, matched=True)
        values = self.new(module.inner_dim, heads=module.heads)
        source = h
        if module.is_cross_attention:
            source = self.new(module.cross_attention_dim, fixed=True)
        self.norm(module.group_norm, h)
        self.layer(module.to_q, h, queries)
        self.layer(module.to_k, source, queries)
        self.layer(module.to_v, source, values)
        self.layer(module.to_out[0], values, h)

    def transformer(self, module: Block, h: Axis) -> None:
        """Go through a transformer that adds to `h`, by a residual stream of its own."""
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

    def joint_block(self, block: Block, tokens: Axis) -> None:
        """Go through a block of SD 3's transformer.

        A head goes as a whole, with its queries, keys and values in both streams. The channels of
        `tokens` are one space through all blocks, and their norms see all of them.
        """
        attention = block.attn
        heads = self.new(attention.to_q.out_features, unit=attention.head_channels)
        for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"):
            layer = getattr(attention, name)
            self.layer(layer, None if isinstance(layer, ConstantTokens) else tokens, heads)
        self.layer(attention.to_out[0], heads, tokens)
        self.layer(attention.to_add_out, heads, tokens)
        if block.attn2 is not None:
            second = self.new(block.attn2.to_q.out_features, unit=block.attn2.head_channels)
            for name in ("to_q", "to_k", "to_v"):
                self.layer(getattr(block.attn2, name), tokens, second)
            self.layer(block.attn2.to_out[0], second, tokens)
        for feed_forward in (block.ff, block.ff_context):
            if feed_forward is not None:
                hidden = self.new(feed_forward.net[2].in_features)
                self.layer(feed_forward.net[0].proj, tokens, hidden)
                self.layer(feed_forward.net[2], hidden, tokens)

    def resample(self, modules: Iterable[Block] | None, h: Axis) -> Axis:
        """Go through the convolutions of down- or upsamplers."""
        for module in modules or ():
            h = self.layer(module.conv, h, self.new(module.conv.out_channels))
        return h

    def attend(self, module: Block | None, h: Axis) -> None:
        """Go through what adds to `h` behind a residual block, if anything does."""
        if isinstance(module, PromptedAttention):
            self.transformer(module.text, h)
            self.transformer(module.image, h)
        elif isinstance(module, Transformer2DModel):
            self.transformer(module, h)
        elif module is not None:
            self.attention(module, h)

    def middle(self, block: Block, h: Axis) -> Axis:
        """Go through the middle block of a UNet or of an autoencoder's half."""
        h = self.resnet(block.resnets[0], h)
        for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
            self.attend(attention, h)
            h = self.resnet(resnet, h)
        return h

    def way_down(self, blocks: Iterable[Block], h: Axis) -> tuple[Axis, list[Axis]]:
        """Go through levels on the way down; returns what leaves, and the skips after `h`."""
        skips = []
        for block in blocks:
            for resnet, attention in zip(block.resnets, attentions_of(block), strict=True):
                h = self.resnet(resnet, h)
                self.attend(attention, h)
                skips.append(h)
            if block.downsamplers:
                h = self.resample(block.downsamplers, h)
                skips.append(h)
        return h, skips

    def level(self, block: Block, h: Axis, skips: list[Axis]) -> Axis:
        """Go through a level on a UNet's way up, which takes the last `skips`."""
        for resnet, attention in zip(block.resnets, attentions_of(block), strict=True):
            h = self.resnet(resnet, h + skips.pop())
            self.attend(attention, h)
        return self.resample(block.upsamplers, h)

    def tail(self, network: Block, h: Axis) -> None:
        """Go through the last norm and convolution, whose outputs are fixed."""
        self.norm(network.conv_norm_out, h)
        self.layer(network.conv_out, h, self.new(network.conv_out.out_channels, fixed=True))


def attentions_of(block: Block) -> list[Block | None]:
    """The attention after each residual block of a level, None where there is none."""
    return list(getattr(block, "attentions", None) or [None] * len(block.resnets))
