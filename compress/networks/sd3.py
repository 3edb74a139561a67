"""The architectures of Stable Diffusion 3-medium and 3.5-medium."""

from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel

from compress.networks.mmdit import MMDiT

Model = Literal["sd3", "sd35"]
TOKENS = 77 + 256  # of CLIP, then of T5
SD3: dict[str, Any] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
TRANSFORMERS: dict[Model, dict[str, Any]] = {
    "sd3": SD3,
    "sd35": {
        **SD3,
        "pos_embed_max_size": 384,
        "qk_norm": "rms_norm",
        "dual_attention_layers": tuple(range(13)),
    },
}
SD3_VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 16,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 1024,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


def sd3_transformer(model: Model = "sd3") -> MMDiT:
    """The transformer on the meta device; no weight is read."""
    with torch.device("meta"):
        return MMDiT(SD3Transformer2DModel(**TRANSFORMERS[model]))


def sd3_vae() -> AutoencoderKL:
    """The autoencoder on the meta device; no weight is read."""
    with torch.device("meta"):
        return AutoencoderKL(**SD3_VAE)


def nano_transformer(channels: int, blocks: int, heads: int) -> MMDiT:
    """A small transformer of the same structure on the meta device.

    Args:
        channels: Of the latent.
        blocks: How many.
        heads: Of `NANO_HEAD` channels each.
    """
    width = heads * NANO_HEAD
    with torch.device("meta"):
        network = SD3Transformer2DModel(
            sample_size=128,
            patch_size=2,
            in_channels=channels,
            out_channels=channels,
            num_layers=blocks,
            attention_head_dim=NANO_HEAD,
            num_attention_heads=heads,
            joint_attention_dim=NANO_TEXT,
            caption_projection_dim=width,
            pooled_projection_dim=NANO_TEXT,
            pos_embed_max_size=192,
        )
        return MMDiT(network)


NANO_HEAD = 16  # channels of a head
NANO_TEXT = 64  # width of the prompt's tokens, and of the pooled prompt
NANO_TOKENS = 16
