"""SD 3's transformer (MMDiT, arXiv 2403.03206) as a denoiser, made of diffusers' layers."""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from torch import nn

from compress.core.errors import UserError
from compress.networks.mmdit_block import LAST, ConstantTokens, JointBlock, Modulated, shifted

LARGEST_PERIOD = 10000.0  # of the sinusoids of positions


class PatchEmbedding(nn.Module):
    """Patches of a latent as tokens, with their positions.

    The position of a token is the sinusoids of its column, then those of its row. Their table is
    cropped in its centre for a smaller map, never interpolated. The published file holds the whole
    of it, [1, side^2, D]; as it is made of one row of sinusoids, that is kept alone.

    Args:
        proj: The convolution of the patches.
        side: The largest grid of tokens.
        base: The grid that is told positions 0, 1, 2, ...; a larger one has fractions between.
    """

    positions: torch.Tensor

    def __init__(self, proj: nn.Conv2d, side: int, base: int):
        super().__init__()
        self.proj: Any = proj
        self.side = side
        self.base = base
        shape = (side, proj.out_channels // 2)
        self.register_buffer("positions", torch.empty(shape, device=proj.weight.device))

    def take_table(self, table: torch.Tensor) -> None:
        """Keep the row of sinusoids that a published table [1, side^2, D] is made of.

        Raises:
            ValueError: It is made of no such row.
        """
        grid = table.reshape(self.side, self.side, 2, -1)
        row = grid[0, :, 0]
        by_column, by_row = (
            row[None].expand_as(grid[:, :, 0]),
            row[:, None].expand_as(grid[:, :, 1]),
        )
        if not (torch.equal(grid[:, :, 0], by_column) and torch.equal(grid[:, :, 1], by_row)):
            raise ValueError("its columns and rows have other sinusoids than its first row")
        self.positions = row.float().clone()

    def reset_parameters(self) -> None:
        """Compute the sinusoids [side, D / 2], on the CPU."""
        half = self.positions.shape[1] // 2
        places = torch.arange(self.side, dtype=torch.float64) * self.base / self.side
        powers = torch.arange(half, dtype=torch.float64) / half
        angles = torch.outer(places, LARGEST_PERIOD**-powers)
        self.positions = torch.cat([angles.sin(), angles.cos()], dim=1).float()

    def places(self, height: int, width: int) -> torch.Tensor:
        """The positions of height x width tokens, [1, height * width, D].

        Raises:
            UserError: The table is smaller.
        """
        if max(height, width) > self.side:
            raise UserError(
                f"a map of {width}x{height} patches is larger than the table of positions, "
                f"{self.side}x{self.side}; run it in tiles"
            )
        top, left = (self.side - height) // 2, (self.side - width) // 2
        columns = self.positions[left : left + width][None].expand(height, -1, -1)
        rows = self.positions[top : top + height][:, None].expand(-1, width, -1)
        return torch.cat([columns, rows], dim=-1).flatten(0, 1)[None]

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] -> [B, h / patch * w / patch, D], row by row."""
        patches = self.proj(latent)
        height, width = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2)
        return tokens + self.places(height, width).to(tokens.dtype)


class MMDiT(nn.Module):
    """The transformer, under diffusers' names.

    One thing differs from the published file: the rows of `proj_out` are in PixelShuffle's order,
    (channel, row, column), and not (row, column, channel).

    Args:
        network: diffusers' module, with values or on the meta device. Its layers are taken over.

    Raises:
        ValueError: Its table of positions is made of no sinusoids.
    """

    def __init__(self, network: SD3Transformer2DModel):
        super().__init__()
        given: Any = network
        self.patch: int = given.config.patch_size
        side, base = given.config.pos_embed_max_size, given.config.sample_size // self.patch
        self.pos_embed: Any = PatchEmbedding(given.pos_embed.proj, side, base)
        if not given.pos_embed.pos_embed.is_meta:
            self.pos_embed.take_table(given.pos_embed.pos_embed)
        # None once they are folded.
        self.time_text_embed: Any = given.time_text_embed
        self.context_embedder: Any = given.context_embedder
        self.transformer_blocks: Any = nn.ModuleList(
            JointBlock(block) for block in given.transformer_blocks
        )
        self.norm_out: Any = Modulated(given.norm_out.norm, given.norm_out.linear, LAST)
        self.proj_out: Any = given.proj_out
        for parameter in self.proj_out.parameters():
            parameter.data = pixel_shuffle_order(parameter.detach(), self.patch)

    @property
    def has_text(self) -> bool:
        """Whether there is a text stream."""
        return self.context_embedder is not None

    @property
    def is_folded(self) -> bool:
        """Whether the embedding of time and text is folded into other layers."""
        return self.time_text_embed is None

    def joint_blocks(self) -> list[JointBlock]:
        """The blocks that no pass has dropped."""
        return [block for block in self.transformer_blocks if isinstance(block, JointBlock)]

    def end_text(self) -> None:
        """Let the text stream end in the attention of the last block, as it is published."""
        blocks = self.joint_blocks()
        if blocks and blocks[-1].attn.to_add_out is not None:
            blocks[-1].end_text()

    def embedding(self, pooled: torch.Tensor | None, timestep: torch.Tensor) -> torch.Tensor | None:
        """The embedding of time and text [B, D]; None where it is folded.

        Args:
            pooled: Of the text, [B, dim].
            timestep: [B], 0 to 1000.
        """
        if self.time_text_embed is None:
            return None
        return self.time_text_embed(timestep, pooled)

    def forward(
        self,
        latent: torch.Tensor,
        context: torch.Tensor | None,
        pooled: torch.Tensor | None,
        timestep: torch.Tensor,
    ) -> torch.Tensor:
        """Latent [B, C, h, w] -> velocity [B, C, h, w].

        Args:
            latent: Its sides are multiples of the patch.
            context: Tokens of the text, [B, tokens, dim]; None where it is folded or gone.
            pooled: Of the text, [1 or B, dim]; None where it is folded.
            timestep: [1 or B], 0 to 1000.
        """
        height, width = (side // self.patch for side in latent.shape[-2:])
        image = self.pos_embed(latent)
        embedding = self.embedding(pooled, timestep)
        text = None
        if self.context_embedder is not None:
            given = latent if isinstance(self.context_embedder, ConstantTokens) else context
            text = self.context_embedder(given)
        for block in self.transformer_blocks:
            image, text = block(image, text, embedding)
        image = self.proj_out(shifted(*self.norm_out(image, embedding)))
        return F.pixel_shuffle(image.transpose(1, 2).unflatten(2, (height, width)), self.patch)


class MMDiTDenoiser(nn.Module):
    """The transformer at one fixed timestep, with a text that another component gives.

    Args:
        transformer: The network.
        timestep: What it is told, 0 to 1000.

    Attributes:
        context: The text's tokens [1, tokens, dim], once `strip` has taken them over.
        pooled: The pooled text [1, dim], likewise.
    """

    context: nn.Parameter | None
    pooled: nn.Parameter | None

    def __init__(self, transformer: MMDiT, timestep: float):
        super().__init__()
        self.transformer = transformer
        self.timestep = timestep
        self.register_parameter("context", None)
        self.register_parameter("pooled", None)

    def forward(
        self,
        latent: torch.Tensor,
        context: torch.Tensor | None = None,
        pooled: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Latent [B, C, h, w] -> velocity [B, C, h, w].

        Args:
            latent: What the process shows.
            context: [1 or B, tokens, dim], if not the own one.
            pooled: [1 or B, dim], if not the own one.
        """
        text = self.context if context is None else context
        if text is not None:
            text = text.expand(latent.shape[0], -1, -1)
        vector = self.pooled if pooled is None else pooled
        timestep = torch.full((1,), self.timestep, device=latent.device)
        return self.transformer(latent, text, vector, timestep)


class ConstantPrompt(nn.Module):
    """The embedding of one prompt: tokens [1, tokens, dim] and a pooled vector [1, dim]."""

    def __init__(self, tokens: int, width: int, pooled: int):
        super().__init__()
        self.context = nn.Parameter(torch.empty(1, tokens, width))
        self.pooled = nn.Parameter(torch.empty(1, pooled))

    def reset_parameters(self) -> None:
        """Draw both from N(0, 1)."""
        nn.init.normal_(self.context)
        nn.init.normal_(self.pooled)

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Both."""
        return self.context, self.pooled


def pixel_shuffle_order(rows: torch.Tensor, patch: int) -> torch.Tensor:
    """Rows of the published `proj_out` in PixelShuffle's order.

    Args:
        rows: [patch^2 * channels, ...], in the order (row, column, channel).
        patch: Side of a patch.

    Returns:
        The same rows in the order (channel, row, column).
    """
    return rows.unflatten(0, (patch**2, -1)).transpose(0, 1).flatten(0, 1).contiguous()
