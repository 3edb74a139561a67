"""Nearest enlargement and the 3x3 convolution after it as one 2x2 convolution before: 4/9 of the products, exactly.

Each of the four pixels that one becomes sees two rows and two columns of the small map: its phase of the 3x3 kernel,
with the taps summed that fall on the same pixel (sub-pixel convolution, arXiv 1609.05158 and 1609.07009). The layer has
16 taps instead of 9. A convolution of 2x2 with a padding of 1 puts out one row and one column too many; with phase i at
place 1 - i, what is cut off after the shuffle is a frame of one pixel.
"""

import torch
import torch.nn.functional as F
from diffusers.models.upsampling import Upsample2D
from torch import nn

from compress.core.errors import UserError
from compress.model.sr_model import SRModel
from compress.networks import swin_unet, vq_autoencoder

# What of three taps in a row falls on the two pixels that place 0 and place 1 read: phase 1, phase 0.
PLACES = torch.tensor([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]], dtype=torch.float64)
ENLARGING = (Upsample2D, swin_unet.Upsample, vq_autoencoder.Upsample)


class PhaseUpsample(nn.Module):
    """[B, in, h, w] -> [B, out, 2h, 2w]; `conv` [4 out, in, 2, 2] in the order of F.pixel_shuffle."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.out_channels = conv.out_channels
        wide = nn.Conv2d(
            conv.in_channels,
            4 * conv.out_channels,
            2,
            padding=1,
            bias=conv.bias is not None,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        weight = torch.einsum(
            "apk,oikl,bql->oabipq",
            PLACES.to(conv.weight.device),
            conv.weight.double(),
            PLACES.to(conv.weight.device),
        )
        wide.weight = nn.Parameter(
            weight.reshape(wide.weight.shape).to(conv.weight.dtype), conv.weight.requires_grad
        )
        if conv.bias is not None:
            wide.bias = nn.Parameter(conv.bias.repeat_interleave(4), conv.bias.requires_grad)
        self.conv = wide

    def forward(self, x: torch.Tensor, output_size: object = None) -> torch.Tensor:
        if output_size is not None:
            raise ValueError(
                "an enlargement by phases doubles each side; a UNet that asks for a size needs sides that "
                "are multiples of its own"
            )
        return F.pixel_shuffle(self.conv(x), 2)[..., 1:-1, 1:-1]


def to_phases(model: SRModel) -> int:
    """Replace every enlargement with its convolution; returns how many. Raises UserError if there is none to replace,
    and for a convolution that another pass has replaced."""
    found = 0
    for path, parent in list(model.named_modules()):
        for name, module in parent.named_children():
            if not isinstance(module, ENLARGING):
                continue
            conv = getattr(module, "conv", None)
            where = f"pass 'strip': {path}.{name}"
            if type(conv) is not nn.Conv2d:
                raise UserError(
                    f"{where}.conv is a {type(conv).__name__}, only a plain convolution can be split into "
                    "phases; list strip before the passes that replace layers"
                )
            if (
                conv.kernel_size != (3, 3)
                or conv.padding != (1, 1)
                or conv.groups != 1
                or conv.stride != (1, 1)
            ):
                raise UserError(f"{where}.conv is no plain 3x3 convolution; set upsample: keep")
            parent.set_submodule(name, PhaseUpsample(conv))
            found += 1
    if not found and not any(isinstance(module, PhaseUpsample) for module in model.modules()):
        raise UserError(
            "pass 'strip': the model has no enlargement with a convolution after it; set upsample: keep"
        )
    return found
