"""Nearest enlargement and the 3x3 convolution after it as one 2x2 convolution before.

That is 4/9 of the products, exactly. Each of the four pixels that one becomes sees two rows and two
columns of the small map: its phase of the 3x3 kernel, with the taps summed that fall on the same
pixel (sub-pixel convolution, arXiv 1609.05158 and 1609.07009). The layer has 16 taps instead of 9.
A convolution of 2x2 with a padding of 1 puts out one row and one column too many; with phase i at
place 1 - i, what is cut off after the shuffle is a frame of one pixel.
"""

import torch
import torch.nn.functional as F
from diffusers.models.upsampling import Upsample2D
from torch import nn

from compress.core.errors import UserError
from compress.model.sr_model import SRModel
from compress.networks import swin_unet, vq_autoencoder

# What of three taps in a row falls on the two pixels that place 0 and place 1 read: phase 1, phase
# 0.
PLACES = torch.tensor([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]], dtype=torch.float64)
ENLARGING = (Upsample2D, swin_unet.Upsample, vq_autoencoder.Upsample)


class PhaseUpsample(nn.Module):
    """An enlargement and its convolution.

    Its own `conv` [4 out, in, 2, 2] has the order of F.pixel_shuffle.

    Args:
        conv: The 3x3 convolution behind the enlargement.
    """

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
        places = PLACES.to(conv.weight.device)
        kernels = torch.einsum("apk,oikl,bql->oabipq", places, conv.weight.double(), places)
        weight = kernels.reshape(wide.weight.shape).to(conv.weight.dtype)
        wide.weight = nn.Parameter(weight, conv.weight.requires_grad)
        if conv.bias is not None:
            wide.bias = nn.Parameter(conv.bias.repeat_interleave(4), conv.bias.requires_grad)
        self.conv = wide

    def forward(self, x: torch.Tensor, output_size: object = None) -> torch.Tensor:
        """[B, in, h, w] -> [B, out, 2h, 2w].

        Raises:
            ValueError: Another size is asked for.
        """
        if output_size is not None:
            raise ValueError(
                "an enlargement by phases doubles each side; a UNet that asks for a size needs "
                "sides that are multiples of its own"
            )
        return F.pixel_shuffle(self.conv(x), 2)[..., 1:-1, 1:-1]


def to_phases(model: SRModel) -> int:
    """Replace every enlargement with its convolution.

    Returns:
        How many were replaced.

    Raises:
        UserError: There is none to replace, or another pass has replaced a convolution.
    """
    count = 0
    for path, parent in list(model.named_modules()):
        for name, module in parent.named_children():
            if isinstance(module, ENLARGING):
                conv = _plain_convolution(module, f"pass 'strip': {path}.{name}.conv")
                parent.set_submodule(name, PhaseUpsample(conv))
                count += 1
    if not count and not any(isinstance(module, PhaseUpsample) for module in model.modules()):
        raise UserError(
            "pass 'strip': the model has no enlargement with a convolution after it; "
            "set upsample: keep"
        )
    return count


def _plain_convolution(module: nn.Module, where: str) -> nn.Conv2d:
    """The 3x3 convolution of an enlargement. Raises UserError for any other layer."""
    conv = getattr(module, "conv", None)
    if type(conv) is not nn.Conv2d:
        raise UserError(
            f"{where} is a {type(conv).__name__}, only a plain convolution can be split into "
            "phases; list strip before the passes that replace layers"
        )
    shape = (conv.kernel_size, conv.padding, conv.stride, conv.groups)
    if shape != ((3, 3), (1, 1), (1, 1), 1):
        raise UserError(f"{where} is no plain 3x3 convolution; set upsample: keep")
    return conv
