"""Fold a constant timestep of the Swin UNet. Exact up to rounding.

The timestep scales and shifts what a GroupNorm puts out, h (1 + s) + b with h = w n + c: an affine map after an affine
map. So w' = w (1 + s) and c' = c (1 + s) + b. Where it is added before the norm it is a bias of the convolution.
"""

import copy

import torch
from torch import nn

from compress.core.errors import UserError
from compress.networks.swin_unet import ResBlock, SwinUNet, timestep_embedding


def _add(parameter: nn.Parameter, value: torch.Tensor) -> nn.Parameter:
    """`parameter` + `value` in float64, in the parameter's type."""
    return nn.Parameter(
        (parameter.double() + value).to(parameter.dtype), requires_grad=parameter.requires_grad
    )


def fold_film(unet: SwinUNet, timestep: int) -> None:
    """Move `timestep` into every residual block's norm and drop the embeddings. Raises UserError for replaced layers.

    A network that was folded before is left alone.
    """
    if unet.time_embed is None:
        return
    blocks = [(name, block) for name, block in unet.named_modules() if isinstance(block, ResBlock)]
    for name, block in blocks:
        for part, layer in (
            ("emb_layers.1", block.emb_layers[1]),
            ("in_layers.2", block.in_layers[2]),
        ):
            if type(layer) not in (nn.Linear, nn.Conv2d):
                raise UserError(
                    f"pass 'strip': {name}.{part} is a {type(layer).__name__}, only plain layers can be "
                    "folded; list strip before the passes that replace layers"
                )
    device = unet.time_embed[0].weight.device
    steps = timestep_embedding(torch.full((1,), timestep, device=device), unet.config.channels)
    embedding = copy.deepcopy(unet.time_embed).double()(steps.double())  # [1, 4 * channels]
    for _, block in blocks:
        time = copy.deepcopy(block.emb_layers).double()(embedding)[0]
        if block.film:
            norm, (scale, shift) = block.out_layers[0], time.chunk(2)
            norm.bias = _add(norm.bias, norm.bias.double() * scale + shift)
            norm.weight = _add(norm.weight, norm.weight.double() * scale)
        else:
            block.in_layers[2].bias = _add(block.in_layers[2].bias, time)
        block.emb_layers = None
    unet.time_embed = None
