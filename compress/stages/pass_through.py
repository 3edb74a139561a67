"""An encoder that passes the pixels of the low-resolution image through, without any training.

The encoder sees the image enlarged by 4. Means over 4x4 pixels, taken by its first two
downsamplers, are nearly the pixels of the image. The third lays a block of 2x2 side by side as
channels. Every pixel goes on as x and as -x, because silu(x) - silu(-x) = x. The groups of the
last GroupNorm get large constants beside them, so that its scale hardly depends on the image. What
is then left of blur and of scale, the last convolution takes back by least squares.
"""

from typing import Any

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
WEAKER = 1e-3  # what RIDGE is multiplied with
COLOURS = 3
BLOCK_PIXELS = 12  # of a block of 2x2, in three colours
SIGNALS = 2 * BLOCK_PIXELS  # each as x and as -x
LEVELS = 4

# (output channel, input channel, row, column) of a convolution's weight -> its value.
Taps = dict[tuple[int, int, int, int], float]


@torch.no_grad()
def pass_pixels(encoder: VAEEncoder, crops: torch.Tensor, signal: float) -> float:
    """Let `encoder` emit `signal` times the 2x2 blocks of pixels.

    Args:
        encoder: Is changed in place. Its channels are then ordered as those of
            `pixel_blocks.pixel_blocks`.
        crops: Low-resolution images [B, 3, h, w] in [0, 1], for the least squares.
        signal: The scale of what is emitted.

    Returns:
        The root mean square error on `crops`, where pixels span [-1, 1].

    Raises:
        UserError: The encoder has other proportions or too few channels.
    """
    inner = encoder.encoder
    _check_widths(inner)
    for module in inner.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight *= QUIET
            if module.bias is not None:
                module.bias *= QUIET
    for block in inner.down_blocks:
        shortcut = block.resnets[0].conv_shortcut
        if shortcut is not None:
            _route(shortcut, {(c, c, 0, 0): 1.0 for c in range(COLOURS)})
    _route(inner.conv_in, {(c, c, 1, 1): 1.0 for c in range(COLOURS)})
    for level in (0, 1):
        _route(inner.down_blocks[level].downsamplers[0].conv, _mean_taps())
    places, free = _places(inner.conv_norm_out.num_groups, inner.conv_norm_out.num_channels)
    _lay_blocks_side_by_side(inner)
    _add_signs_and_constants(inner, places, free)
    error = _solve_last_convolution(encoder, crops, signal)
    return error * encoder.scaling_factor / signal


def _check_widths(inner: Any) -> None:
    """Raise UserError where a diffusers encoder has too few levels or channels."""
    widths = [block.resnets[-1].out_channels for block in inner.down_blocks]
    groups = inner.conv_norm_out.num_groups
    is_legal = len(widths) == LEVELS and min(widths) >= COLOURS and widths[-1] % groups == 0
    # A group needs room for its share of the signals and for a constant.
    if not is_legal or SIGNALS // groups + 1 > widths[-1] // groups:
        raise UserError(
            f"source.encoder_channels: an encoder of widths {tuple(widths)} cannot pass "
            f"pixels through; it needs four levels, the last of at least "
            f"{SIGNALS + groups} channels"
        )


def _route(layer: nn.Conv2d, taps: Taps) -> None:
    for place, value in taps.items():
        layer.weight[place] = value


def _mean_taps() -> Taps:
    """The mean over 2x2 pixels, colour by colour."""
    taps: Taps = {}
    for colour in range(COLOURS):
        for row in (0, 1):
            for column in (0, 1):
                taps[colour, colour, row, column] = 0.25
    return taps


def _block_taps() -> Taps:
    """The pixels of a 2x2 block side by side: channel 4 * colour + 2 * row + column."""
    taps: Taps = {}
    for colour in range(COLOURS):
        for row in (0, 1):
            for column in (0, 1):
                taps[4 * colour + 2 * row + column, colour, row, column] = 1.0
    return taps


def _places(groups: int, channels: int) -> tuple[list[int], list[int]]:
    """The channels of the signals, spread evenly over the groups, and those that are left."""
    size = channels // groups
    order = []
    for place in range(size):
        order += [group * size + place for group in range(groups)]
    return order[:SIGNALS], sorted(order[SIGNALS:])


def _lay_blocks_side_by_side(inner: Any) -> None:
    """Set the third level's downsampler of a diffusers encoder."""
    layer = inner.down_blocks[2].downsamplers[0].conv
    if layer.out_channels < BLOCK_PIXELS:
        raise UserError(
            f"source.encoder_channels: {layer.out_channels} channels at the third level "
            "do not hold the 12 pixels of a block; set at least 16"
        )
    _route(layer, _block_taps())


def _add_signs_and_constants(inner: Any, places: list[int], free: list[int]) -> None:
    """Set the last level's shortcut: every pixel with both signs, and constants of both signs."""
    shortcut = inner.down_blocks[3].resnets[0].conv_shortcut
    if shortcut is None:
        raise UserError(
            "source.encoder_channels: the last level must be wider than the third; raise its width"
        )
    shortcut.weight[:] = shortcut.weight * QUIET
    for number, channel in enumerate(places):
        sign = 1.0 if number < BLOCK_PIXELS else -1.0
        _route(shortcut, {(channel, number % BLOCK_PIXELS, 0, 0): sign})
    for number, channel in enumerate(free):
        shortcut.bias[channel] = CONSTANT if number % 2 else -CONSTANT


def _solve_last_convolution(encoder: VAEEncoder, crops: torch.Tensor, signal: float) -> float:
    """Let the last convolution give the blocks; returns its RMS error."""
    inner = encoder.encoder
    seen: list[torch.Tensor] = []
    hook = inner.conv_out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder(crops)
    hook.remove()
    wanted = F.pixel_unshuffle(crops * 2 - 1, 2) / encoder.scaling_factor * signal
    weight, bias, error = _least_squares(seen[0], wanted)
    half = inner.conv_out.out_channels // 2
    inner.conv_out.weight[:half] = weight
    inner.conv_out.bias[:half] = bias
    encoder.quant_conv.weight[:half] = torch.eye(2 * half)[:half, :, None, None]
    encoder.quant_conv.bias[:half] = 0
    return error


def _least_squares(
    features: torch.Tensor, wanted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The convolution from `features` [B, C, h, w] to `wanted` [B, O, h, w] that errs least.

    The border is left out, where a convolution sees padding.

    Returns:
        Weight [O, C, 3, 3], bias [O], and the RMS error.
    """
    channels = features.shape[1]
    columns = F.unfold(features.double(), 3).transpose(1, 2).flatten(0, 1)
    rows = wanted[..., 1:-1, 1:-1].double().flatten(2).transpose(1, 2).flatten(0, 1)
    columns = torch.cat([columns, torch.ones(len(columns), 1, dtype=torch.float64)], dim=1)
    square = columns.T @ columns / len(columns)
    # A little towards zero: x and -x say the same.
    eye = torch.eye(len(square), dtype=torch.float64)
    square += RIDGE * square.diagonal().mean() * eye * WEAKER
    solution = torch.linalg.solve(square, columns.T @ rows / len(columns))
    error = (columns @ solution - rows).square().mean().sqrt().item()
    weight = solution[:-1].T.reshape(wanted.shape[1], channels, 3, 3).float()
    return weight, solution[-1].float(), error
