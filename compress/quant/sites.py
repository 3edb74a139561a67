"""Where an equivalent transform folds away: the tensor's producer absorbs it, so that inference pays nothing.

| consumers                 | producer                      | offset |
|---------------------------|-------------------------------|--------|
| self-attention q, k, v    | LayerNorm                     | yes    |
| cross-attention q         | LayerNorm                     | yes    |
| feed-forward in (GEGLU)   | LayerNorm                     | yes    |
| proj_in                   | GroupNorm                     | yes    |
| autoencoder q, k, v       | GroupNorm                     | yes    |
| feed-forward out          | value rows of the GEGLU       | no     |
| attention out             | rows of to_v                  | no     |

Nothing absorbs a transform across SiLU: the convolutions of residual blocks are not here (quant/explicit.py is theirs).
Where the tensor between producer and consumers has a quantiser that other readers share, it stays as it is.
"""

from dataclasses import dataclass

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from compress.quant.fit import Transform
from compress.quant.layers import QuantLayer


@dataclass
class Site:
    """`consumers` all read one tensor; `producer` makes it. `rows` counts the producer's rows that do, if not all."""

    producer: nn.Module
    consumers: list[QuantLayer]
    rows: int | None = None

    @property
    def has_offset(self) -> bool:
        return isinstance(self.producer, (nn.LayerNorm, nn.GroupNorm))

    @torch.no_grad()
    def fold(self, transform: Transform) -> None:
        """Let the producer emit (x - o) / s."""
        scale, producer = transform.scale, self.producer
        if self.has_offset:
            producer.weight /= scale
            producer.bias.copy_((producer.bias - transform.offset) / scale)
        elif isinstance(producer, QuantLayer):
            fit = producer.fit
            fit.weight[: self.rows] /= per_row(scale, fit.weight)
            # A row's boundaries shrink with it, so its codes stay what they were.
            fit.weight_low[: self.rows] /= scale
            fit.weight_high[: self.rows] /= scale
            if fit.rounded is not None:
                fit.rounded[: self.rows] /= per_row(scale, fit.weight)
            if fit.shift is not None:
                fit.shift[: self.rows] /= scale
            if producer.branch is not None:
                producer.branch.up[: self.rows] /= per_row(scale, producer.branch.up)
            if producer.bias is not None:
                producer.bias[: self.rows] /= scale
        elif isinstance(producer, nn.Linear):
            producer.weight[: self.rows] /= per_row(scale, producer.weight)
            if producer.bias is not None:
                producer.bias[: self.rows] /= scale
        else:  # keys and values of a constant text: [1, tokens, channels]
            producer.value /= scale


def per_row(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return values.view(-1, *[1] * (weight.ndim - 1))


def find_sites(component: nn.Module) -> list[Site]:
    """All sites of one component of a converted model whose consumers are all quantised."""
    found: list[Site] = []
    points = component.points.names() if hasattr(component, "points") else []

    def add(
        producer: nn.Module, consumers: list[nn.Module], rows: int | None = None, values: str = ""
    ) -> None:
        """`values` names the attention between the two, whose V may have a quantiser of its own."""
        open_between = (
            getattr(producer, "output", None) is None and f"{values}.attention.v" not in points
        )
        if open_between and all(
            isinstance(c, QuantLayer) and c.input is not None for c in consumers
        ):
            found.append(Site(producer, consumers, rows))

    for name, module in component.named_modules():
        if isinstance(module, BasicTransformerBlock):
            add(module.norm1, [module.attn1.to_q, module.attn1.to_k, module.attn1.to_v])
            add(module.attn1.to_v, [module.attn1.to_out[0]], values=f"{name}.attn1")
            if module.attn2 is not None:
                add(module.norm2, [module.attn2.to_q])
                add(module.attn2.to_v, [module.attn2.to_out[0]], values=f"{name}.attn2")
            add(module.norm3, [module.ff.net[0].proj])
            out = module.ff.net[2]
            add(module.ff.net[0].proj, [out], rows=getattr(out, "in_features", None))
        elif isinstance(module, Transformer2DModel):
            add(module.norm, [module.proj_in])
        elif isinstance(module, Attention) and module.group_norm is not None:
            add(module.group_norm, [module.to_q, module.to_k, module.to_v])
            add(module.to_v, [module.to_out[0]], values=name)
    return found
