"""A patch discriminator (pix2pix, arXiv 1611.07004) on images."""

from torch import nn


def patch_discriminator(width: int = 32, layers: int = 3, in_channels: int = 3) -> nn.Sequential:
    """[B, 3, H, W] -> patch logits [B, 1, about H/8, about W/8]. GroupNorm, so that batch 1 works."""
    blocks: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    channels = width
    for layer in range(1, layers + 1):
        out = width * min(2**layer, 8)
        stride = 2 if layer < layers else 1
        blocks += [nn.Conv2d(channels, out, 4, stride, 1, bias=False), nn.GroupNorm(8, out), nn.LeakyReLU(0.2)]
        channels = out
    return nn.Sequential(*blocks, nn.Conv2d(channels, 1, 4, 1, 1))
