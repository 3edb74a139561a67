"""A fixed map of noise, repeated over a latent of any size."""

from collections.abc import Iterable

import torch

PERIOD = 64  # pixels of the latent after which a model's noise repeats itself
DRAW = "noise_"  # and a number: the values of noise, in the order in which they are drawn


def draws(names: Iterable[str]) -> list[str]:
    """Those of the values that are noise."""
    return [name for name in names if name.startswith(DRAW)]


def repeated(noise: torch.Tensor, like: torch.Tensor, top: int = 0, left: int = 0) -> torch.Tensor:
    """The map `noise` side by side, as large as another map.

    Args:
        noise: [1, C, p, q].
        like: [B, _, h, w].
        top: The row of the repeated map with which the result begins.
        left: The column.

    Returns:
        [1, C, h, w].
    """
    height, width = like.shape[-2:]
    return repeated_to(noise, height, width, top, left)


def repeated_to(
    noise: torch.Tensor, height: int, width: int, top: int = 0, left: int = 0
) -> torch.Tensor:
    """The map `noise` side by side, [1, C, height, width].

    It is done by copies and a slice, because phone runtimes lack a gather by computed positions.
    Arguments are those of `repeated`.
    """
    p, q = noise.shape[-2:]
    top, left = top % p, left % q
    tiles = noise.repeat(1, 1, (top + height + p - 1) // p, (left + width + q - 1) // q)
    return tiles[:, :, top : top + height, left : left + width]
