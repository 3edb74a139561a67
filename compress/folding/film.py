"""Fold a constant timestep of the Swin UNet. Exact up to rounding.

The timestep scales and shifts what a GroupNorm puts out, h (1 + s) + b with h = w n + c: an affine
map after an affine map. So w' = w (1 + s) and c' = c (1 + s) + b. Where it is added before the norm
it is a bias of the convolution.
"""

import copy
from typing import Any

import torch
from torch import nn

from compress.core.errors import UserError
from compress.networks.swin_unet import ResBlock, SwinUNet, timestep_embedding


def _add(parameter: torch.Tensor, value: torch.Tensor) -> nn.Parameter:
    """`parameter` + `value` in float64, in the parameter's type."""
    total = (parameter.double() + value).to(parameter.dtype)
    return nn.Parameter(total, requires_grad=parameter.requires_grad)


def fold_film(unet: SwinUNet, timestep: int) -> None:
    """Move `timestep` into every residual block's norm and drop the embeddings.

    A network that was folded before is left alone.

    Raises:
        UserError: A layer is no plain one, because a pass has replaced it.
    """
    if unet.time_embed is None:
        return
    blocks = {name: block for name, block in unet.named_modules() if isinstance(block, ResBlock)}
    for name, block in blocks.items():
        if block.emb_layers is not None:
            _check_plain(f"{name}.emb_layers.1", block.emb_layers[1])
        _check_plain(f"{name}.in_layers.2", block.in_layers[2])
    device = next(unet.time_embed.parameters()).device
    steps = timestep_embedding(torch.full((1,), timestep, device=device), unet.config.channels)
    embedding = copy.deepcopy(unet.time_embed).double()(steps.double())  # [1, 4 * channels]
    for block in blocks.values():
        _fold_block(block, embedding)
    unet.time_embed = None


def _check_plain(name: str, layer: nn.Module) -> None:
    if type(layer) not in (nn.Linear, nn.Conv2d):
        raise UserError(
            f"pass 'strip': {name} is a {type(layer).__name__}, only plain layers can be folded; "
            "list strip before the passes that replace layers"
        )


def _fold_block(block: ResBlock, embedding: torch.Tensor) -> None:
    """Move the embedding, float64 [1, 4 * channels], into one residual block."""
    if block.emb_layers is None:
        return
    time = copy.deepcopy(block.emb_layers).double()(embedding)[0]
    if block.film:
        norm: Any = block.out_layers[0]  # a GroupNorm, which Sequential has as any module
        scale, shift = time.chunk(2)
        norm.bias = _add(norm.bias, norm.bias.double() * scale + shift)
        norm.weight = _add(norm.weight, norm.weight.double() * scale)
    else:
        convolution: Any = block.in_layers[2]
        convolution.bias = _add(convolution.bias, time)
    block.emb_layers = None
