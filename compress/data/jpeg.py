"""JPEG's loss as torch operations on a batch.

It is ITU-T T.81 baseline with 4:2:0 chroma, without the entropy coder, which loses nothing.
"""

import math

import torch
import torch.nn.functional as F

# T.81 Annex K, tables K.1 and K.2.
_LUMA = torch.tensor(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    dtype=torch.float32,
)
_CHROMA = torch.full((8, 8), 99.0)
_CHROMA[:4, :4] = torch.tensor(
    [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
)
_TO_YCC = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]]
)


def _dct_matrix() -> torch.Tensor:
    k = torch.arange(8, dtype=torch.float64)
    basis = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) * 0.5
    basis[0] /= math.sqrt(2)
    return basis.float()


def _quantise(plane: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """A plane as a decoder gets it.

    Args:
        plane: [B, 1, H, W] centred on 0, H and W multiples of 8.
        table: Steps of the coefficients, [B, 8, 8].
    """
    batch, _, height, width = plane.shape
    dct = _dct_matrix().to(plane)
    # [B, H/8, W/8, 8, 8]
    blocks = plane.view(batch, height // 8, 8, width // 8, 8).permute(0, 1, 3, 2, 4)
    steps = table[:, None, None]
    codes = torch.round(dct @ blocks @ dct.T / steps) * steps
    return (dct.T @ codes @ dct).permute(0, 1, 3, 2, 4).reshape(batch, 1, height, width)


def jpeg(image: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """Compress and decompress images. It has no gradient.

    Args:
        image: Float [B, 3, H, W] in [0, 1].
        quality: [B] in 1..100.

    Returns:
        Float [B, 3, H, W] in [0, 1], rounded to 8 bits.
    """
    height, width = image.shape[-2:]
    # libjpeg's scaling of the tables.
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None, None].to(image)
    luma_steps = ((_LUMA.to(image) * scale + 50) / 100).floor().clamp(1, 255)
    chroma_steps = ((_CHROMA.to(image) * scale + 50) / 100).floor().clamp(1, 255)
    pixels = F.pad(image, (0, -width % 16, 0, -height % 16), mode="replicate").mul(255).round()
    ycc = torch.einsum("oc,bchw->bohw", _TO_YCC.to(image), pixels).round()
    luma = (_quantise(ycc[:, :1] - 128, luma_steps) + 128).round().clamp(0, 255)
    chroma = F.avg_pool2d(ycc[:, 1:], 2).round()
    blue = _quantise(chroma[:, :1], chroma_steps)
    red = _quantise(chroma[:, 1:], chroma_steps)
    chroma = torch.cat([blue, red], dim=1).round().clamp(-128, 127)
    # libjpeg's "fancy" upsampling is a triangle filter, which bilinear interpolation is.
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    to_rgb = torch.linalg.inv(_TO_YCC).to(image)
    rgb = torch.einsum("oc,bchw->bohw", to_rgb, torch.cat([luma, chroma], dim=1))
    return rgb[..., :height, :width].round().clamp(0, 255) / 255
