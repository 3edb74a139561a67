"""A fixed map of noise, repeated over a latent of any size."""

import torch


def repeated(noise: torch.Tensor, like: torch.Tensor, top: int = 0, left: int = 0) -> torch.Tensor:
    """[1, C, h, w] for `like` [B, _, h, w]: the map `noise` [1, C, p, q] side by side, from row `top` and column `left` on.

    By copies and a slice, because phone runtimes lack a gather by computed positions.
    """
    (height, width), (p, q) = like.shape[-2:], noise.shape[-2:]
    top, left = top % p, left % q
    tiles = noise.repeat(1, 1, (top + height + p - 1) // p, (left + width + q - 1) // q)
    return tiles[:, :, top : top + height, left : left + width]
