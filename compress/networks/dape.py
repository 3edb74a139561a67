"""The tagger of OSEDiff: DAPE (SeeSR, arXiv 2311.16518), which is RAM (arXiv 2306.03514) with LoRA.

OSEDiff writes its prompt from the tags that DAPE finds in the bicubic x4 image, resized to 384x384.
SRModel runs without it: a constant prompt replaces it. It exists here to state what the published
system costs, so no weights are loaded.

LoRA (rank 8; queries and values of the Swin, queries and keys of the head) is merged, as loralib
does on `eval()`, and so has neither parameters nor MACs here; unmerged it holds 622,592 parameters
more. RAM's captioner is not built.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from transformers.models.swin import SwinConfig

SIZE = 384
TAGS = 4585
IMAGE_WIDTH = 512  # of image tokens and label embeddings
WIDTH = 768  # of the head
HEADS = 4
NORM_EPS = 1e-12
LAYERS = 2  # of the head


class TagLayer(nn.Module):
    """A BERT layer without its self-attention: tags look at image tokens."""

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(IMAGE_WIDTH, WIDTH)
        self.value = nn.Linear(IMAGE_WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm_attention = nn.LayerNorm(WIDTH, eps=NORM_EPS)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)
        self.norm_mlp = nn.LayerNorm(WIDTH, eps=NORM_EPS)

    def forward(self, tags: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Tags [B, T, 768] and image tokens [B, N, 512] -> [B, T, 768]."""
        query = _heads(self.query(tags))
        key = _heads(self.key(image))
        value = _heads(self.value(image))
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tags = self.norm_attention(tags + self.out(seen))
        return self.norm_mlp(tags + self.down(F.gelu(self.up(tags))))


def _heads(x: torch.Tensor) -> torch.Tensor:
    """[B, N, 768] -> [B, heads, N, d]."""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def swin_large() -> "SwinConfig":
    """Swin-L as RAM has it."""
    from transformers.models.swin import SwinConfig

    return SwinConfig(
        image_size=SIZE,
        patch_size=4,
        embed_dim=192,
        depths=[2, 2, 18, 2],
        num_heads=[6, 12, 24, 48],
        window_size=12,
    )


class Tagger(nn.Module):
    """The image encoder and the head of tags."""

    def __init__(self):
        super().__init__()
        from transformers.models.swin import SwinModel

        self.swin = SwinModel(swin_large())
        self.image_proj = nn.Linear(self.swin.num_features, IMAGE_WIDTH)
        self.labels = nn.Parameter(torch.zeros(TAGS, IMAGE_WIDTH))
        self.label_proj = nn.Linear(IMAGE_WIDTH, WIDTH)
        self.layers = nn.ModuleList(TagLayer() for _ in range(LAYERS))
        self.logit = nn.Linear(WIDTH, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """One logit for each tag, [B, 4585].

        `image` is [B, 3, 384, 384], normalised with ImageNet's mean and deviation.
        """
        features = self.swin(image)
        pooled = features.pooler_output[:, None]
        tokens = self.image_proj(torch.cat([pooled, features.last_hidden_state], dim=1))
        tags = F.relu(self.label_proj(self.labels)).expand(image.shape[0], -1, -1)
        for layer in self.layers:
            tags = layer(tags, tokens)
        return self.logit(tags).squeeze(-1)
