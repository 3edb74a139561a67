"""InvSR's discriminator (arXiv 2412.09013): a small conditional UNet that judges latents.

It sees the latent again at each level on the way down, and gives a map of logits behind the middle
block and behind each level on the way up. Names and shapes of `LatentJudge.state_dict()` are those
of the published checkpoint. Written from facts about it. The blocks are diffusers'.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from compress.networks.released_file import fill, released_state

JUDGE = "InvSR's discriminator_sd_turbo_v5.pth"
LARGEST = 10.0  # a fake latent is clamped to so much before it is judged
# The published network, as diffusers' config of a UNet.
INVSR_JUDGE: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "block_out_channels": (128, 256, 512),
    "layers_per_block": (1, 2, 2),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    # diffusers calls the number of heads `attention_head_dim` here.
    "attention_head_dim": (8, 16, 16),
    "cross_attention_dim": 1024,
    "norm_num_groups": 32,
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 64,
}
PUBLISHED_TEXT = 1024  # features of the text that it is told
# The same for a nano, whose text is narrower.
NANO_JUDGE: dict[str, Any] = {
    **INVSR_JUDGE,
    "block_out_channels": (32, 32, 64),
    "layers_per_block": (1, 1, 1),
    "attention_head_dim": (2, 2, 4),
    "norm_num_groups": 8,
    "addition_embed_type_num_heads": 4,
}
SMALLEST_GROUP = 4  # channels, of the logits' GroupNorm


def judge_sizes(channels: int, text: int) -> dict[str, Any]:
    """Arguments of a `LatentJudge`: the published ones, or for a narrower text those of a nano.

    Args:
        channels: Of the latent.
        text: Features of the text.
    """
    base = INVSR_JUDGE if text == PUBLISHED_TEXT else NANO_JUDGE
    return {**base, "in_channels": channels, "cross_attention_dim": text}


def _logits(channels: int, groups: int) -> nn.Sequential:
    """Features [B, C, h, w] -> a map of logits [B, 1, h, w]."""
    groups = min(groups, channels // SMALLEST_GROUP)
    return nn.Sequential(
        nn.GroupNorm(groups, channels),
        nn.SiLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.GroupNorm(groups, channels),
        nn.SiLU(),
        nn.Conv2d(channels, 1, 3, padding=1),
    )


class LatentJudge(nn.Module):
    """The discriminator.

    Args:
        config: Arguments of diffusers' UNet, whose blocks are taken over.
    """

    def __init__(self, config: Mapping[str, Any] = INVSR_JUDGE):
        super().__init__()
        unet = UNet2DConditionModel(**config)
        parts: Any = unet
        groups = unet.config["norm_num_groups"]
        widths = unet.config["block_out_channels"]
        self.time_proj: Any = unet.time_proj
        self.time_embedding: Any = unet.time_embedding
        self.add_embedding: Any = parts.add_embedding
        self.conv_in: Any = unet.conv_in
        self.feature_in = nn.Conv2d(unet.config["in_channels"], groups, 3, padding=1)
        self.down_blocks: Any = unet.down_blocks
        for block in self.down_blocks:
            block.resnets[0] = _wider(block.resnets[0], groups)
        self.mid_block: Any = unet.mid_block
        self.up_blocks: Any = unet.up_blocks
        outputs = (widths[-1], *reversed(widths))
        self.out_blocks = nn.ModuleList(_logits(width, groups) for width in outputs)

    def forward(
        self, latent: torch.Tensor, context: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Maps of logits, positive for real, the smallest first; the last two have h x w.

        Args:
            latent: Scaled latents [B, 4, h, w]. Fake ones are clamped to [-LARGEST, LARGEST] by the
                caller.
            context: The prompt [1 or B, tokens, dim].
            timestep: Where the latent comes from, [1 or B].
        """
        batch = latent.shape[0]
        context = context.expand(batch, -1, -1)
        sinusoids = self.time_proj(timestep.expand(batch)).to(latent.dtype)
        embedding = self.time_embedding(sinusoids) + self.add_embedding(context)
        features = self.feature_in(latent)
        x = self.conv_in(latent)
        skips = [x]
        for block in self.down_blocks:
            resized = F.interpolate(features, x.shape[-2:], mode="bicubic")
            x = torch.cat([x, resized], dim=1)
            x, made = _through(block, x, embedding, context)
            skips += made
        x = self.mid_block(x, embedding, encoder_hidden_states=context)
        head, *heads = self.out_blocks
        logits = [head(x)]
        for block, head in zip(self.up_blocks, heads, strict=True):
            count = len(block.resnets)
            used = tuple(skips[-count:])
            del skips[-count:]
            # Of the level above, for sides that halving rounds.
            side = skips[-1].shape[-2:] if skips else None
            x = _through(
                block, x, embedding, context, res_hidden_states_tuple=used, upsample_size=side
            )
            logits.append(head(x))
        return tuple(logits)


def _through(
    block: Any, x: torch.Tensor, embedding: torch.Tensor, context: torch.Tensor, **options: Any
) -> Any:
    """What a level puts out, with the text where it takes one."""
    if getattr(block, "has_cross_attention", False):
        options["encoder_hidden_states"] = context
    return block(hidden_states=x, temb=embedding, **options)


def _wider(block: ResnetBlock2D, more: int) -> ResnetBlock2D:
    """A residual block like `block` that takes `more` channels more."""
    norm: Any = block.norm1
    return ResnetBlock2D(
        in_channels=block.in_channels + more,
        out_channels=block.out_channels,
        temb_channels=block.get_submodule("time_emb_proj").get_parameter("weight").shape[1],
        groups=norm.num_groups,
        eps=norm.eps,
    )


def load_latent_judge(network: LatentJudge, path: str, key: str = "discriminator") -> None:
    """Fill a discriminator, which may be on the meta device, with the published file.

    Args:
        network: Of the published sizes.
        path: The file.
        key: The recipe's key that names it.

    Raises:
        UserError: The file is wrong or incomplete; the first names that do not fit are told.
    """
    fill([network], released_state(path, key, JUDGE), f"{key}: {path}", JUDGE)
