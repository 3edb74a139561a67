"""DAPE's image tokens (SeeSR, arXiv 2311.16518): what prompts AddSR beside the text.

A Swin transformer, RAM's (arXiv 2306.03514), looks at the image at 384x384 pixels. LoRA on its
queries and values is merged on reading. The tagger on top of it is compress/networks/dape.py.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.errors import UserError
from compress.core.tensors import State, check_fit, few
from compress.networks.dape import IMAGE_WIDTH, swin_large
from compress.networks.ldm_names import Names
from compress.networks.released_file import released_state

if TYPE_CHECKING:
    from transformers.models.swin import SwinConfig

RAM = "RAM's ram_swin_large_14m.pth"
DAPE = "SeeSR's DAPE.pth"
LORA_ALPHA = 1  # at rank 8; the file does not store it
MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB
DEVIATION = (0.229, 0.224, 0.225)
SWIN, PROJECTION = "visual_encoder.", "image_proj."
BUFFERS = ("relative_position_index", "attn_mask")  # in the file, and made of sizes here
QKV = ".attn.qkv."
SIDES = ("q", "k", "v")
_EMBEDDINGS = {
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.norm": "patch_embed.norm",
    "layernorm": "norm",
}
_BLOCK = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.q_proj": "attn.qkv.q",
    "attention.k_proj": "attn.qkv.k",
    "attention.v_proj": "attn.qkv.v",
    "attention.o_proj": "attn.proj",
    "attention.relative_position_bias.relative_position_bias_table": (
        "attn.relative_position_bias_table"
    ),
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


class VisualTokens(nn.Module):
    """An image's tokens: the mean of all first, then those of the map, row by row.

    Args:
        config: The Swin's sizes; RAM's by default.
        width: Of a token.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, config: "SwinConfig | None" = None, width: int = IMAGE_WIDTH):
        super().__init__()
        from transformers.models.swin import SwinModel

        config = swin_large() if config is None else config
        self.size: Any = config.image_size
        self.swin: Any = SwinModel(config)
        self.image_proj = nn.Linear(self.swin.num_features, width)
        with torch.device("cpu"):  # they have values on the meta device as well
            self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
            deviation = torch.tensor(DEVIATION).view(3, 1, 1)
            self.register_buffer("deviation", deviation, persistent=False)
            modules: Any = self.swin.modules()
            for module in modules:
                if hasattr(module, "relative_position_index"):
                    index = module._create_relative_position_index()
                    module.relative_position_index = index.view(-1)

    def tokens(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 3, 384, 384] in about [0, 1] -> [B, 145, 512]."""
        found = self.swin((image - self.mean) / self.deviation)
        pooled = found.pooler_output[:, None]
        return self.image_proj(torch.cat([pooled, found.last_hidden_state], dim=1))

    def refined(self, image: torch.Tensor, clamp: bool = False) -> torch.Tensor:
        """Tokens [B, 145, 512] of an image of the process, [B, 3, H, W], resized bicubically.

        Args:
            image: About [0, 1].
            clamp: Whether what the resizing overshoots is cut, as AddSR's training does with the
                images of its data set, and not with its own.
        """
        side = (self.size, self.size)
        resized = F.interpolate(image, side, mode="bicubic", align_corners=False)
        return self.tokens(resized.clamp(0, 1) if clamp else resized)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """Tokens [B, 145, 512] of the input, [B, 3, h, w] in [0, 1], resized bilinearly."""
        side = (self.size, self.size)
        return self.tokens(F.interpolate(lr, side, mode="bilinear", align_corners=False))


def token_names(network: VisualTokens) -> Names:
    """The tensors' names in RAM's file, where q, k and v of each attention are one tensor.

    They stand under `qkv.q`, `qkv.k` and `qkv.v` here.
    """
    return {name: _file_name(name) for name in network.state_dict()}


def _file_name(name: str) -> str:
    if name.startswith(PROJECTION):
        return name
    name = name.removeprefix("swin.")
    stem, _, kind = name.rpartition(".")
    if stem in _EMBEDDINGS:
        return f"{SWIN}{_EMBEDDINGS[stem]}.{kind}"
    place = name.removeprefix("encoder.")
    _, level, part, rest = place.split(".", 3)  # layers.0.blocks.0.REST, layers.0.downsample.REST
    if part == "downsample":
        return f"{SWIN}{place}"
    block, _, rest = rest.partition(".")
    for own, file in _BLOCK.items():
        if rest.startswith(own):
            return f"{SWIN}layers.{level}.blocks.{block}.{file}{rest.removeprefix(own)}"
    raise KeyError(name)


def merged_qkv(base: State, lora: State, alpha: float, where: str) -> State:
    """RAM's tensors with DAPE's LoRA in them.

    The pairs of an attention's q and v lie in one: `lora_A` [2r, C] has q's rows first, `lora_B`
    [2C, r] as well. Nothing is added to k.

    Args:
        base: Names `MODULE.weight`, `MODULE` ending in `attn.qkv`.
        lora: Names `MODULE.lora_A` and `MODULE.lora_B`.
        alpha: The products count alpha / r.
        where: What begins the sentence of an error.

    Returns:
        A copy of `base`.

    Raises:
        UserError: A pair is missing, is half, or fits no weight.
    """
    merged = dict(base)
    modules = {name.removesuffix(".weight") for name in base if name.endswith(f"{QKV}weight")}
    expected = {f"{module}.lora_{side}" for module in modules for side in "AB"}
    differing = expected ^ lora.keys()
    if differing:
        raise UserError(
            f"{where}: {len(differing)} LoRA tensors are missing or fit no attention "
            f"({few(differing)}); give {DAPE}"
        )
    for module in modules:
        weight = merged[f"{module}.weight"]
        a, b = lora[f"{module}.lora_A"], lora[f"{module}.lora_B"]
        width, rank = weight.shape[1], b.shape[-1]
        if a.shape != (2 * rank, width) or b.shape != (2 * width, rank):
            raise UserError(
                f"{where}: the LoRA pair of {module} has shapes {tuple(a.shape)} and "
                f"{tuple(b.shape)}, its weight in the base {tuple(weight.shape)}; give {DAPE}"
            )
        query, value = (
            up.double() @ down.double() for up, down in zip(b.chunk(2), a.chunk(2), strict=True)
        )
        change = torch.cat([query, torch.zeros_like(query), value]) * (alpha / rank)
        merged[f"{module}.weight"] = (weight.double() + change).to(weight.dtype)
    return merged


def token_tensors(
    network: VisualTokens, base: State, lora: State, where: str, alpha: float = LORA_ALPHA
) -> State:
    """A file's tensors under the network's names, with their names and shapes checked.

    Args:
        network: What is going to be filled.
        base: RAM's, merged or not. What belongs to its tagger and captioner is left out.
        lora: DAPE's, empty where `base` has it merged already.
        where: What begins the sentence of an error.
        alpha: Of the LoRA.

    Raises:
        UserError: Entries are missing, unexpected or of another shape.
    """
    names = token_names(network)
    own = network.state_dict()
    found = {
        name: tensor
        for name, tensor in base.items()
        if name.startswith((SWIN, PROJECTION)) and not name.endswith(BUFFERS)
    }
    if lora:
        pairs = {name: t for name, t in lora.items() if name.startswith(SWIN)}
        found = merged_qkv(found, pairs, alpha, where)
    split: State = {}
    for name, tensor in found.items():
        before, joint, kind = name.partition(QKV)
        if not joint or tensor.shape[0] % len(SIDES):
            split[name] = tensor
            continue
        for side, piece in zip(SIDES, tensor.chunk(len(SIDES)), strict=True):
            split[f"{before}{QKV}{side}.{kind}"] = piece
    check_fit({file: own[name] for name, file in names.items()}, split, where, RAM)
    return {name: split[file] for name, file in names.items()}


def load_visual_tokens(network: VisualTokens, ram: str, dape: str | None, key: str) -> None:
    """Fill a network, which may be on the meta device.

    Args:
        network: Of the published sizes.
        ram: RAM's file.
        dape: DAPE's file; None for RAM alone.
        key: The recipe's key that names them, for the sentence of an error.

    Raises:
        UserError: A file is wrong or incomplete; the first names that do not fit are told.
    """
    base = released_state(ram, key, RAM)
    lora = {} if dape is None else released_state(dape, key, DAPE)
    where = f"{key}: {ram}" if dape is None else f"{key}: {ram} and {dape}"
    network.load_state_dict(token_tensors(network, base, lora, where), assign=True)
