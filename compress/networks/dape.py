"""The tagger of OSEDiff: DAPE (SeeSR, arXiv 2311.16518), which is RAM (arXiv 2306.03514) with LoRA.

OSEDiff writes its prompt from the tags that DAPE finds in the bicubic x4 image, resized to 384x384. SRModel runs
without it: a constant prompt replaces it. It exists here to state what the published system costs, so no weights
are loaded.

LoRA (rank 8; queries and values of the Swin, queries and keys of the head) is merged, as loralib does on `eval()`, and
so has neither parameters nor MACs here; unmerged it holds 622,592 parameters more. RAM's captioner is not built.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import SwinConfig, SwinModel

SIZE = 384
TAGS = 4585
IMAGE_WIDTH = 512  # of image tokens and label embeddings
WIDTH = 768  # of the head
HEADS = 4
SWIN_L = dict(
    image_size=SIZE,
    patch_size=4,
    embed_dim=192,
    depths=[2, 2, 18, 2],
    num_heads=[6, 12, 24, 48],
    window_size=12,
)


class TagLayer(nn.Module):
    """A BERT layer without its self-attention: tags [B, T, 768] look at image tokens [B, N, 512] -> [B, T, 768]."""

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(IMAGE_WIDTH, WIDTH)
        self.value = nn.Linear(IMAGE_WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm_attention = nn.LayerNorm(WIDTH, eps=1e-12)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)
        self.norm_mlp = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, tags: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            x.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for x in (self.query(tags), self.key(image), self.value(image))
        )
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tags = self.norm_attention(tags + self.out(seen))
        return self.norm_mlp(tags + self.down(F.gelu(self.up(tags))))


class Tagger(nn.Module):
    """Image [B, 3, 384, 384], normalised with ImageNet's mean and deviation -> one logit per tag [B, 4585]."""

    def __init__(self):
        super().__init__()
        self.swin = SwinModel(SwinConfig(**SWIN_L))
        self.image_proj = nn.Linear(self.swin.num_features, IMAGE_WIDTH)
        self.labels = nn.Parameter(torch.zeros(TAGS, IMAGE_WIDTH))
        self.label_proj = nn.Linear(IMAGE_WIDTH, WIDTH)
        self.layers = nn.ModuleList(TagLayer() for _ in range(2))
        self.logit = nn.Linear(WIDTH, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found = self.swin(image)
        tokens = self.image_proj(
            torch.cat([found.pooler_output[:, None], found.last_hidden_state], dim=1)
        )
        tags = F.relu(self.label_proj(self.labels)).expand(image.shape[0], -1, -1)
        for layer in self.layers:
            tags = layer(tags, tokens)
        return self.logit(tags).squeeze(-1)
