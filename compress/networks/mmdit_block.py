"""The joint block of SD 3's transformer: an image stream and a text stream that attend together.

The layers are diffusers' (`JointTransformerBlock`), under their names. The forward is ours, because
passes fold the modulations into the layers behind them, drop the text stream, and cut heads.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention import JointTransformerBlock
from torch import nn

from compress.core.errors import UserError

# What the linear layer of a modulation puts out, in its order.
FULL = ("shift", "scale", "gate", "shift_ff", "scale_ff", "gate_ff")
DUAL = (*FULL, "shift_2", "scale_2", "gate_2")  # SD 3.5: of a second attention, on the image alone
LAST = ("scale", "shift")  # of the last text stream and of the network's end
Parts = Mapping[str, torch.Tensor]


class Modulated(nn.Module):
    """A LayerNorm without weights, and what the embedding of time and text says about it.

    Args:
        norm: The LayerNorm.
        linear: From the embedding to the parts; None once they are folded into other layers.
        order: The names of the parts.
    """

    def __init__(self, norm: nn.LayerNorm, linear: Any, order: tuple[str, ...]):
        super().__init__()
        self.norm = norm
        self.linear: Any = linear
        self.order = order

    def parts(self, embedding: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """The parts, each [B, 1, D]; none where they are folded.

        Args:
            embedding: [B, D]; None where all modulations are folded.
        """
        if self.linear is None or embedding is None:
            return {}
        made = self.linear(F.silu(embedding))[:, None].chunk(len(self.order), dim=-1)
        return dict(zip(self.order, made, strict=True))

    @torch.no_grad()
    def keep(self, *names: str) -> None:
        """Make these parts alone.

        Raises:
            UserError: The layer that makes them is no plain one.
        """
        if self.linear is not None:
            if type(self.linear) is not nn.Linear:
                raise UserError(
                    f"a modulation is a {type(self.linear).__name__}, whose parts cannot be cut; "
                    "list depth_prune before the passes that replace layers"
                )
            places = [self.order.index(name) for name in names]
            for kind in ("weight", "bias"):
                rows = getattr(self.linear, kind)
                kept = rows.detach().unflatten(0, (len(self.order), -1))[places].flatten(0, 1)
                setattr(self.linear, kind, nn.Parameter(kept, requires_grad=rows.requires_grad))
            self.linear.out_features = len(self.linear.bias)
        self.order = names

    def forward(
        self, x: torch.Tensor, embedding: torch.Tensor | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Tokens [B, n, D] -> them normalised but not shifted, and the parts."""
        return self.norm(x), self.parts(embedding)


def shifted(x: torch.Tensor, parts: Parts, which: str = "") -> torch.Tensor:
    """Normalised tokens, scaled and shifted by the parts called `scale` and `shift` + `which`."""
    scale = parts.get(f"scale{which}")
    return x if scale is None else x * (1 + scale) + parts[f"shift{which}"]


def gated(x: torch.Tensor, parts: Parts, which: str = "") -> torch.Tensor:
    """What is added to a stream, times the part called `gate` + `which`."""
    gate = parts.get(f"gate{which}")
    return x if gate is None else gate * x


class ConstantTokens(nn.Module):
    """In the place of a layer on the text: what it makes of a constant one.

    The value is a buffer, for it is computed and not learnt.

    Args:
        value: [1, tokens, channels].
    """

    value: torch.Tensor

    def __init__(self, value: torch.Tensor):
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, x: torch.Tensor | None) -> torch.Tensor:
        """[B, ...] -> [B, tokens, channels]; None counts as a batch of one."""
        return self.value if x is None else self.value.expand(x.shape[0], -1, -1)


class JointAttention(nn.Module):
    """Attention of image tokens, and text tokens where there are some, on all of them.

    Args:
        attention: diffusers' module. Its layers are taken over.
    """

    def __init__(self, attention: Any):
        super().__init__()
        self.heads: int = attention.heads
        self.head_channels: int = attention.to_q.out_features // self.heads
        for name in ("to_q", "to_k", "to_v", "to_out"):
            setattr(self, name, getattr(attention, name))
        # None: without a text stream, or for the last one, which makes no tokens.
        for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
            setattr(self, name, getattr(attention, name, None))
        # SD 3.5 normalises queries and keys of each head.
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            setattr(self, name, getattr(attention, name, None))

    def _in_heads(self, layer: Any, x: torch.Tensor, norm: Any = None) -> torch.Tensor:
        found = layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return found if norm is None else norm(found)

    def forward(
        self, image: torch.Tensor, text: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Image tokens [B, n, D] and text tokens [B, m, D] -> what is added to each stream.

        The second is None without text, and where nothing is added to it.
        """
        own: Any = self
        query = self._in_heads(own.to_q, image, own.norm_q)
        key = self._in_heads(own.to_k, image, own.norm_k)
        value = self._in_heads(own.to_v, image)
        if text is not None:
            if own.add_q_proj is not None:
                queries = self._in_heads(own.add_q_proj, text, own.norm_added_q)
                query = torch.cat([query, queries], dim=2)
            keys = self._in_heads(own.add_k_proj, text, own.norm_added_k)
            key = torch.cat([key, keys], dim=2)
            value = torch.cat([value, self._in_heads(own.add_v_proj, text)], dim=2)
        found = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        if text is None or own.add_q_proj is None:
            return own.to_out[0](found), None
        count = image.shape[1]
        added = None if own.to_add_out is None else own.to_add_out(found[:, count:])
        return own.to_out[0](found[:, :count]), added


class JointBlock(nn.Module):
    """One block. Its text stream may be gone, and the last one's makes no tokens.

    Args:
        block: diffusers' module. Its layers are taken over.
    """

    def __init__(self, block: JointTransformerBlock):
        super().__init__()
        given: Any = block
        order = FULL if given.attn2 is None else DUAL
        self.norm1: Any = Modulated(given.norm1.norm, given.norm1.linear, order)
        of_text = LAST if given.context_pre_only else FULL
        text_norm = given.norm1_context
        self.norm1_context: Any = Modulated(text_norm.norm, text_norm.linear, of_text)
        self.attn: Any = JointAttention(given.attn)
        self.attn2: Any = None if given.attn2 is None else JointAttention(given.attn2)
        self.norm2: Any = given.norm2
        self.ff: Any = given.ff
        self.norm2_context: Any = given.norm2_context
        self.ff_context: Any = given.ff_context

    def forward(
        self,
        image: torch.Tensor,
        text: torch.Tensor | None,
        embedding: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Both streams, [B, n, D] and [B, m, D] -> both; the text is None after the last block.

        Args:
            image: Image tokens.
            text: Text tokens; None without a text stream.
            embedding: Of time and text, [B, D]; None where it is folded.
        """
        normal, parts = self.norm1(image, embedding)
        seen, text_parts = self._seen_text(text, embedding)
        added, text_added = self.attn(shifted(normal, parts), seen)
        image = image + gated(added, parts)
        if self.attn2 is not None:
            alone, _ = self.attn2(shifted(normal, parts, "_2"))
            image = image + gated(alone, parts, "_2")
        hidden = self.ff(shifted(self.norm2(image), parts, "_ff"))
        image = image + gated(hidden, parts, "_ff")
        if text is None or text_added is None:
            return image, None
        text = text + gated(text_added, text_parts)
        hidden = self.ff_context(shifted(self.norm2_context(text), text_parts, "_ff"))
        return image, text + gated(hidden, text_parts, "_ff")

    def end_text(self) -> None:
        """Drop what makes new text tokens; attention still sees the ones that come."""
        for name in ("to_add_out", "add_q_proj", "norm_added_q"):
            setattr(self.attn, name, None)
        self.norm2_context = None
        self.ff_context = None
        if self.norm1_context is not None:
            self.norm1_context.keep("shift", "scale")

    def _seen_text(
        self, text: torch.Tensor | None, embedding: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, Parts]:
        """What attention sees of the text, and its parts; constant projections need no norm."""
        if text is None or self.norm1_context is None:
            return text, {}
        normal, parts = self.norm1_context(text, embedding)
        return shifted(normal, parts), parts
