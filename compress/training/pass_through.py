"""An encoder that passes the pixels of the low-resolution image through, without any training.

The encoder sees the image enlarged by 4. Means over 4x4 pixels, taken by its first two
downsamplers, are nearly the pixels of the image; the third lays a block of 2x2 side by side as
channels. Every pixel goes on as x and as -x, because silu(x) - silu(-x) = x, and the groups of the
last GroupNorm get large constants beside them, so that its scale hardly depends on the image. What
is then left of blur and of scale, the last convolution takes back by least squares.
"""

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.errors import UserError
from compress.networks.latent_diffusion import VAEEncoder

# The share of its random values that stays in what is not used here: zeros alone have no scale to
# quantise with.
QUIET = 1e-3
CONSTANT = 3.0  # beside pixels in [-1, 1]
RIDGE = 1e-4


@torch.no_grad()
def pass_pixels(encoder: VAEEncoder, crops: torch.Tensor, signal: float) -> float:
    """Let `encoder` emit `signal` times the 2x2 blocks of pixels, as `stages.pixel_blocks` orders
    them.

    `crops` [B, 3, h, w] in [0, 1] are low-resolution images for the least squares. Returns the root
    mean square error on them, where pixels span [-1, 1]. Raises UserError for an encoder of other
    proportions or too few channels.
    """
    inner = encoder.encoder
    widths = [block.resnets[-1].out_channels for block in inner.down_blocks]
    groups = inner.conv_norm_out.num_groups
    signals = 2 * 12
    if (
        len(widths) != 4
        or min(widths) < 3
        or widths[3] % groups
        or (signals // groups + 1 > widths[3] // groups)
    ):
        raise UserError(
            f"source.encoder_channels: an encoder of widths {tuple(widths)} cannot pass "
            f"pixels through; it needs four levels, the last of at least "
            f"{signals + groups} channels"
        )
    for module in inner.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight *= QUIET
            if module.bias is not None:
                module.bias *= QUIET
    for block in inner.down_blocks:
        if block.resnets[0].conv_shortcut is not None:
            _route(block.resnets[0].conv_shortcut, {(c, c, 0, 0): 1.0 for c in range(3)})
    _route(inner.conv_in, {(c, c, 1, 1): 1.0 for c in range(3)})
    for level in (0, 1):
        _route(
            inner.down_blocks[level].downsamplers[0].conv,
            {(c, c, y, x): 0.25 for c in range(3) for y in (0, 1) for x in (0, 1)},
        )
    return _finish(encoder, crops, signal)


def _route(layer: nn.Conv2d, taps: dict[tuple[int, int, int, int], float]) -> None:
    for place, value in taps.items():
        layer.weight[place] = value


def _finish(encoder: VAEEncoder, crops: torch.Tensor, signal: float) -> float:
    """The third level on: blocks side by side, their signs and the constants, and the last
    convolution.
    """
    inner = encoder.encoder
    deep = inner.down_blocks[2].downsamplers[0].conv
    if deep.out_channels < 12:
        raise UserError(
            f"source.encoder_channels: {deep.out_channels} channels at the third level "
            "do not hold the 12 pixels of a block; set at least 16"
        )
    # Channel 4 * colour + 2 * row + column.
    _route(
        deep, {(4 * c + 2 * y + x, c, y, x): 1.0 for c in range(3) for y in (0, 1) for x in (0, 1)}
    )
    shortcut = inner.down_blocks[3].resnets[0].conv_shortcut
    places, free = _places(inner.conv_norm_out.num_groups, inner.conv_norm_out.num_channels)
    if shortcut is None:
        raise UserError(
            "source.encoder_channels: the last level must be wider than the third; raise its width"
        )
    shortcut.weight[:] = shortcut.weight * QUIET
    for number, channel in enumerate(places):
        _route(shortcut, {(channel, number % 12, 0, 0): 1.0 if number < 12 else -1.0})
    for number, channel in enumerate(free):
        shortcut.bias[channel] = CONSTANT if number % 2 else -CONSTANT
    caught = []
    hook = inner.conv_out.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    encoder(crops)
    hook.remove()
    wanted = F.pixel_unshuffle(crops * 2 - 1, 2) / encoder.scaling_factor * signal
    weight, bias, error = _least_squares(caught[0], wanted)
    half = inner.conv_out.out_channels // 2
    inner.conv_out.weight[:half], inner.conv_out.bias[:half] = weight, bias
    encoder.quant_conv.weight[:half] = torch.eye(2 * half)[:half, :, None, None]
    encoder.quant_conv.bias[:half] = 0
    return error * encoder.scaling_factor / signal


def _places(groups: int, channels: int) -> tuple[list[int], list[int]]:
    """The channels of 24 signals, spread evenly over the groups, and those that are left."""
    size = channels // groups
    order = [group * size + place for place in range(size) for group in range(groups)]
    return order[:24], sorted(order[24:])


def _least_squares(
    features: torch.Tensor, wanted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Weight [O, C, 3, 3], bias [O] of the convolution from `features` to `wanted`, and its RMS
    error. The border is left out, where the convolution sees padding.
    """
    count, channels = features.shape[:2]
    columns = F.unfold(features.double(), 3).transpose(1, 2).flatten(0, 1)
    rows = wanted[..., 1:-1, 1:-1].double().flatten(2).transpose(1, 2).flatten(0, 1)
    columns = torch.cat([columns, torch.ones(len(columns), 1, dtype=torch.float64)], dim=1)
    square = columns.T @ columns / len(columns)
    # A little towards zero: x and -x say the same.
    square += RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64) * 1e-3
    found = torch.linalg.solve(square, columns.T @ rows / len(columns))
    error = (columns @ found - rows).square().mean().sqrt().item()
    weight = found[:-1].T.reshape(wanted.shape[1], channels, 3, 3).float()
    return weight, found[-1].float(), error
