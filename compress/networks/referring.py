"""A UNet that refers to photographs: copies of its encoder, and what is added to its decoder.

Denisov et al., Keldysh Institute preprint 2025-18: one copy of the UNet's encoder sees the
references, another the input; cross-attention from the second to the first at the levels of the
decoder is added to the output of each [doc]. There it is a model of many steps. Here it is on a
model of one step, which the preprint does not have [REC]: the copies see what the UNet sees, at its
one timestep and with its context, and they are all of the encoder that the chosen levels need.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from compress.networks.control import through
from compress.networks.latent_diffusion import Conditioned, UNetDenoiser, VAEEncoder
from compress.networks.reference_attention import Memory, ReferenceAttention


class UNetLevels(Conditioned):
    """A copy of a UNet's encoder: the last map of each of its levels, before its downsampling.

    Args:
        denoiser: Has the UNet, the timestep and the context that are copied.
        levels: Which maps are wanted, in rising order; 0 is the largest.
    """

    def __init__(self, denoiser: UNetDenoiser, levels: Sequence[int]):
        context = copy.deepcopy(denoiser.context)
        super().__init__(denoiser.timestep, context)
        unet = denoiser.unet
        self.levels = tuple(levels)
        # Diffusers' modules, or what passes put in their place.
        self.time_proj: Any = copy.deepcopy(unet.time_proj)
        self.time_embedding: Any = copy.deepcopy(unet.time_embedding)
        self.time_embed_act = None  # as in a UNet without one
        self.conv_in: Any = copy.deepcopy(unet.conv_in)
        kept = list(unet.down_blocks)[: self.levels[-1] + 1]
        self.down_blocks: Any = copy.deepcopy(nn.ModuleList(kept))
        last: Any = self.down_blocks[-1]
        last.downsamplers = None

    def maps(self, latent: torch.Tensor, context: torch.Tensor | None) -> list[torch.Tensor]:
        """The maps of the wanted levels, [B, C, h, w] each.

        Args:
            latent: What the UNet sees, [B, C, h, w].
            context: [1 or B, tokens, dim], if not the own one.
        """
        prompt = self.batch_context(latent, context)
        own = torch.full((1,), self.timestep, device=latent.device).expand(latent.shape[0])
        embedding = self.time_embedding(self.time_proj(own).to(latent.dtype))
        x = self.conv_in(latent)
        found = []
        for level, block in enumerate(self.down_blocks):
            x, skips = through(block, x, embedding, prompt)
            if level in self.levels:
                found.append(skips[len(block.resnets) - 1])
        return found

    @property
    def last(self) -> list[Any]:
        """The last residual block of each wanted level."""
        return [self.down_blocks[level].resnets[-1] for level in self.levels]

    @property
    def widths(self) -> list[int]:
        """Channels of the wanted maps."""
        return [block.conv2.out_channels for block in self.last]

    @property
    def groups(self) -> list[int]:
        """Groups of the norms there: 32, and 16 of the nano [REC]."""
        return [block.norm2.num_groups for block in self.last]


class ReferenceEncoder(UNetLevels):
    """What is kept of a photograph: keys and values of every level.

    Args:
        encoder: The autoencoder's, which is copied and stays as it is [REC].
        denoiser: See `UNetLevels`.
        levels: Likewise.
    """

    def __init__(self, encoder: VAEEncoder, denoiser: UNetDenoiser, levels: Sequence[int]):
        super().__init__(denoiser, levels)
        self.encoder = copy.deepcopy(encoder)
        self.memories = nn.ModuleList(map(Memory, self.widths, self.groups))

    def latent(self, photograph: torch.Tensor) -> torch.Tensor:
        """The latent [N, C, h / 8, w / 8] of photographs [N, 3, h, w] in [0, 1]."""
        return self.encoder.encode(photograph * 2 - 1)

    def forward(
        self, photograph: torch.Tensor, context: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Photographs [N, 3, h, w] in [0, 1] -> keys and values [N, tokens, C], level by level."""
        kept: list[torch.Tensor] = []
        maps = self.maps(self.latent(photograph), context)
        for memory, found in zip(self.memories, maps, strict=True):
            kept += memory(found)
        return tuple(kept)


class ReferenceQuery(UNetLevels):
    """What is added to the levels of the decoder, by the input and what was kept of references.

    Args:
        denoiser: See `UNetLevels`.
        levels: Likewise.
    """

    def __init__(self, denoiser: UNetDenoiser, levels: Sequence[int]):
        super().__init__(denoiser, levels)
        blocks: list[Any] = list(denoiser.unet.up_blocks)[::-1]
        outs = [blocks[level].resnets[-1].conv2.out_channels for level in self.levels]
        self.attentions = nn.ModuleList(map(ReferenceAttention, self.widths, outs, self.groups))

    def forward(
        self, latent: torch.Tensor, context: torch.Tensor | None, *kept: torch.Tensor
    ) -> Any:
        """Maps [B, C, h, w], one a level; of one level the map itself.

        Args:
            latent: What the UNet sees, [B, C, h, w].
            context: [1 or B, tokens, dim], if not the own one.
            kept: Keys and values in turn, level by level: [1 or B, N, tokens, C] each.
        """
        pairs = zip(kept[::2], kept[1::2], strict=True)
        maps = zip(self.attentions, self.maps(latent, context), pairs, strict=True)
        added = tuple(attention(x, keys, values) for attention, x, (keys, values) in maps)
        return added[0] if len(added) == 1 else added


class ReferringDenoiser(UNetDenoiser):
    """A UNet that maps are added to, behind the last block of levels of its decoder.

    Args:
        denoiser: Its UNet is taken over.
        levels: Where maps are added.
    """

    def __init__(self, denoiser: UNetDenoiser, levels: Sequence[int]):
        super().__init__(denoiser.unet, denoiser.timestep, denoiser.context)
        self.levels = tuple(levels)

    def forward(
        self, latent: torch.Tensor, context: torch.Tensor | None = None, *added: torch.Tensor
    ) -> torch.Tensor:
        """Latent [B, C, h, w] -> prediction [B, C, h, w].

        Args:
            latent: What the process shows.
            context: [1 or B, tokens, dim], if not the own one.
            added: A map for each of the levels.
        """
        unet: Any = self.unet
        prompt = self.batch_context(latent, context)
        sinusoids = unet.get_time_embed(sample=latent, timestep=self.timestep)
        embedding = unet.time_embedding(sinusoids, None)
        x = unet.conv_in(latent)
        skips = [x]
        for block in unet.down_blocks:
            x, made = through(block, x, embedding, prompt)
            skips += made
        x = unet.mid_block(x, embedding, encoder_hidden_states=prompt)
        maps = dict(zip(self.levels, added, strict=True))
        for place, block in enumerate(unet.up_blocks):
            level = len(unet.up_blocks) - 1 - place
            x = _up(block, x, skips, (embedding, prompt), maps.get(level))
        return unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))


def _up(
    block: Any,
    x: torch.Tensor,
    skips: list[torch.Tensor],
    told: tuple[Any, Any],
    added: torch.Tensor | None,
) -> torch.Tensor:
    """A level of a UNet's decoder, as diffusers runs it, with a map added before its enlargement.

    Args:
        block: The level.
        x: What the level below made.
        skips: Maps of the encoder, the last of which are used up.
        told: The time embedding and the text.
        added: The map, or None.
    """
    embedding, prompt = told
    attentions = getattr(block, "attentions", [None] * len(block.resnets))
    for resnet, attention in zip(block.resnets, attentions, strict=True):
        x = resnet(torch.cat([x, skips.pop()], dim=1), embedding)
        if attention is not None:
            x = attention(x, encoder_hidden_states=prompt, return_dict=False)[0]
    if added is not None:
        x = x + added
    for upsampler in block.upsamplers or ():
        x = upsampler(x)
    return x
