"""A pipeline of Stable Diffusion's kind in diffusers' layout, as small as its classes allow."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TOKENS = 12
UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "attention_head_dim": (2, 2),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "use_linear_projection": True,
}
VAE = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
TEXT = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": TOKENS,
    "bos_token_id": 256,
    "eos_token_id": 257,
}


def save_tokenizer(folder: Path) -> None:
    """A byte-level vocabulary without merges: one token for each letter, spelled as in CLIP."""
    letters = [chr(i) for i in range(33, 127)]
    vocabulary = letters + [f"{letter}</w>" for letter in letters]
    vocabulary += [f"<unused{i}>" for i in range(256 - len(vocabulary))] + [
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(folder, pad_token="!").save_pretrained(folder)


def save_pipeline(folder: Path, prediction: str = "epsilon", levels: int = 2) -> Path:
    """Random weights, the same each time.

    Args:
        folder: Is made.
        prediction: What the scheduler says.
        levels: Of the autoencoder; with four its latent is as small as Stable Diffusion's.
    """
    vae = VAE | {
        "block_out_channels": (8,) * (levels - 1) + (16,),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }
    torch.manual_seed(0)
    UNet2DConditionModel(**UNET).save_pretrained(folder / "unet")
    AutoencoderKL(**vae).save_pretrained(folder / "vae")
    CLIPTextModel(CLIPTextConfig(**TEXT)).save_pretrained(folder / "text_encoder")
    DDPMScheduler(prediction_type=prediction).save_pretrained(folder / "scheduler")
    save_tokenizer(folder / "tokenizer")
    return folder
