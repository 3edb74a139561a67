"""Where an equivalent transform folds away.

A *site* is a tensor whose producer can absorb a transform of it, so that inference pays nothing.

| consumers                 | producer                      | offset |
|---------------------------|-------------------------------|--------|
| self-attention q, k, v    | LayerNorm                     | yes    |
| cross-attention q         | LayerNorm                     | yes    |
| feed-forward in (GEGLU)   | LayerNorm                     | yes    |
| proj_in                   | GroupNorm                     | yes    |
| autoencoder q, k, v       | GroupNorm                     | yes    |
| feed-forward out          | value rows of the GEGLU       | no     |
| attention out             | rows of to_v                  | no     |
| SD 3's q, k, v and        | LayerNorm of that stream,     | yes    |
| feed-forward in           | once modulations are folded   |        |

That LayerNorm has no weights until a transform needs some (`make_room`). SD 3's values have two
producers, one of each stream, and no site.

Nothing absorbs a transform across SiLU: the convolutions of residual blocks are not here
(explicit.py is theirs). Where the tensor between producer and consumers has a quantiser that other
readers share, it stays as it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from compress.networks.latent_diffusion import ConstantProjection
from compress.networks.mmdit_block import JointBlock
from compress.quant.affine import per_channel
from compress.quant.equivalent import Transform
from compress.quant.fit import layer_fit
from compress.quant.layers import QuantLayer
from compress.quant.points import points_of


@dataclass
class Site:
    """A tensor that a transform may change for free.

    Attributes:
        producer: What makes the tensor.
        consumers: The layers that read it, all of them quantised.
        rows: How many of the producer's rows make it, if not all.
    """

    producer: nn.Module
    consumers: list[QuantLayer]
    rows: int | None = None

    @property
    def has_offset(self) -> bool:
        """Whether the producer can absorb an offset besides a scale."""
        return isinstance(self.producer, (nn.LayerNorm, nn.GroupNorm))

    def make_room(self) -> None:
        """Give the producer and the consumers the weights and biases that a transform goes to."""
        producer = self.producer
        if isinstance(producer, nn.LayerNorm) and not producer.elementwise_affine:
            like = self.consumers[0].weight_scale
            width = producer.normalized_shape
            weight = torch.ones(width, device=like.device)
            producer.weight = nn.Parameter(weight, requires_grad=False)
            producer.bias = nn.Parameter(torch.zeros_like(weight), requires_grad=False)
            producer.elementwise_affine = True
        if not self.has_offset:
            return
        for layer in self.consumers:
            if layer.bias is None:
                layer.bias = nn.Parameter(torch.zeros_like(layer.weight_scale), requires_grad=False)

    @torch.no_grad()
    def fold(self, transform: Transform) -> None:
        """Let the producer emit (x - o) / s."""
        producer = self.producer
        scale = transform.scale
        if isinstance(producer, (nn.LayerNorm, nn.GroupNorm)):
            _fold_into_norm(producer, scale, transform.offset)
        elif isinstance(producer, QuantLayer):
            _fold_into_quantised(producer, scale, self.rows)
        elif isinstance(producer, nn.Linear):
            _divide_rows(producer.weight, scale, self.rows)
            _divide_rows(producer.bias, scale, self.rows)
        elif isinstance(producer, ConstantProjection):
            producer.value.div_(scale)  # keys and values of a constant text, [1, tokens, channels]
        else:
            raise TypeError(f"a {type(producer).__name__} cannot absorb a transform")


def _divide_rows(values: torch.Tensor | None, scale: torch.Tensor, rows: int | None) -> None:
    """Divide the first `rows` rows of `values` [out, ...] by `scale`, in place.

    `rows` None stands for all of them, `values` None for a tensor that is not there.
    """
    if values is not None:
        values[:rows] /= per_channel(scale, values.ndim)


def _fold_into_norm(
    norm: nn.LayerNorm | nn.GroupNorm, scale: torch.Tensor, offset: torch.Tensor | None
) -> None:
    norm.weight.div_(scale)
    norm.bias.copy_((norm.bias - (0 if offset is None else offset)) / scale)


def _fold_into_quantised(layer: QuantLayer, scale: torch.Tensor, rows: int | None) -> None:
    fit = layer_fit(layer)
    _divide_rows(fit.weight, scale, rows)
    # A row's boundaries shrink with it, so its codes stay what they were.
    _divide_rows(fit.weight_low, scale, rows)
    _divide_rows(fit.weight_high, scale, rows)
    _divide_rows(fit.rounded, scale, rows)
    _divide_rows(fit.shift, scale, rows)
    _divide_rows(layer.bias, scale, rows)
    if layer.branch is not None:
        _divide_rows(layer.branch.up, scale, rows)


@dataclass
class _Candidate:
    """A producer and its readers, whatever they are.

    `attention` names the attention between the two, whose V may have a quantiser of its own.
    """

    producer: nn.Module
    readers: list[nn.Module]
    rows: int | None = None
    attention: str = ""


def find_sites(component: nn.Module) -> list[Site]:
    """All sites of one component of a converted model whose consumers are all quantised."""
    points = points_of(component)
    point_names = [] if points is None else points.names()
    found = []
    for candidate in _candidates(component):
        has_output_quantiser = getattr(candidate.producer, "output", None) is not None
        if has_output_quantiser or f"{candidate.attention}.attention.v" in point_names:
            continue
        layers = [layer for layer in candidate.readers if isinstance(layer, QuantLayer)]
        readable = [layer for layer in layers if layer.input is not None]
        if len(readable) == len(candidate.readers):
            found.append(Site(candidate.producer, readable, candidate.rows))
    return found


def _candidates(component: nn.Module) -> Iterator[_Candidate]:
    """What the table above names in a component, in the order of its modules."""
    for name, module in component.named_modules():
        if isinstance(module, BasicTransformerBlock):
            yield from _in_transformer_block(name, module)
        elif isinstance(module, JointBlock):
            yield from _in_joint_block(module)
        elif isinstance(module, Transformer2DModel):
            yield _Candidate(module.norm, [module.proj_in])
        elif isinstance(module, Attention) and module.group_norm is not None:
            yield _Candidate(module.group_norm, [module.to_q, module.to_k, module.to_v])
            yield _Candidate(module.to_v, [module.to_out[0]], attention=name)


def _in_transformer_block(name: str, block: BasicTransformerBlock) -> Iterator[_Candidate]:
    attn1 = block.attn1
    yield _Candidate(block.norm1, [attn1.to_q, attn1.to_k, attn1.to_v])
    yield _Candidate(attn1.to_v, [attn1.to_out[0]], attention=f"{name}.attn1")
    if block.attn2 is not None:
        attn2 = block.get_submodule("attn2")
        yield _Candidate(block.get_submodule("norm2"), [attn2.get_submodule("to_q")])
        value = attn2.get_submodule("to_v")
        projection = attn2.get_submodule("to_out.0")
        yield _Candidate(value, [projection], attention=f"{name}.attn2")
    gate_and_value = block.get_submodule("ff.net.0.proj")
    out = block.get_submodule("ff.net.2")
    yield _Candidate(block.get_submodule("norm3"), [gate_and_value])
    yield _Candidate(gate_and_value, [out], rows=getattr(out, "in_features", None))


def _in_joint_block(block: JointBlock) -> Iterator[_Candidate]:
    """Norms whose modulations lie in the layers behind them."""
    if block.norm1.linear is not None:
        return
    attentions = [block.attn] if block.attn2 is None else [block.attn, block.attn2]
    readers = [getattr(a, name) for a in attentions for name in ("to_q", "to_k", "to_v")]
    yield _Candidate(block.norm1.norm, readers)
    yield _Candidate(block.norm2, [block.ff.net[0].proj])
    if block.norm1_context is not None:
        names = ("add_q_proj", "add_k_proj", "add_v_proj")
        of_text = [getattr(block.attn, name) for name in names]
        yield _Candidate(block.norm1_context.norm, [one for one in of_text if one is not None])
    if block.norm2_context is not None:
        yield _Candidate(block.norm2_context, [block.ff_context.net[0].proj])
