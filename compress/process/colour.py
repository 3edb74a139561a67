"""Colour correction of a restored image by its low-resolution input.

All take float [B, 3, H, W] images in one common range. `adain` and `wavelet` are those of OSEDiff
(`my_utils/wavelet_color_fix.py`, after StableSR); `mean_std` is AdcSR's, `ycbcr` InvSR's.
Statistics are those of
the whole image: tone must not depend on tiles. `FIXES` is what models and exporters call.

One mean and deviation cannot mend tiles that differ in tint, as a small network's do in a flat sky,
where its GroupNorm sees nothing else. `wavelet` can: it has the low frequencies of the input
everywhere (`Tiling.colour_fix`).

These are for whole tensors and for graphs. compress/process/strips.py has the same for images that
come in strips.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F

from compress.process.resample import upsample

LEVELS = 5
FLAT = 1e-6  # a smaller deviation is rounding: that of the mean leaves some 1e-8
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (BT.601)
ColourFix = Literal["adain", "wavelet", "mean_std", "ycbcr", "none"]


def _statistics(image: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel, [B, C, 1, 1]; `eps` is added to the variance."""
    flat = image.flatten(2)
    mean = flat.mean(-1)[..., None, None]
    # Unbiased variance written out: ONNX has no reduction that is.
    variance = ((flat - mean.flatten(2)) ** 2).sum(-1) / (flat.shape[-1] - 1)
    return mean, (variance + eps).sqrt()[..., None, None]


def adain(target: torch.Tensor, source: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Give `target` the per-channel mean and standard deviation of `source`; both in [0, 1]."""
    mean_t, std_t = _statistics(target, eps)
    mean_s, std_s = _statistics(source, eps)
    return (target - mean_t) / std_t * std_s + mean_s


def mean_std(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """AdcSR's fix; `source` may have another size.

    A flat channel takes the source's mean, where AdcSR's own code gives NaN.
    """
    mean_t, std_t = _statistics(target, 0.0)
    mean_s, std_s = _statistics(source, 0.0)
    flat = std_t < FLAT
    matched = (target - mean_t) / torch.where(flat, 1.0, std_t) * std_s + mean_s
    return torch.where(flat, mean_s, matched)


def _blur(image: torch.Tensor, dilation: int) -> torch.Tensor:
    """[1, 2, 1] / 4 at distance `dilation` along both axes, edges repeated.

    It is (1 + z)^2 / 4 along each axis, as additions.
    """
    for axis, sides in ((-1, (dilation, dilation, 0, 0)), (-2, (0, 0, dilation, dilation))):
        image = F.pad(image, sides, mode="replicate")
        for _ in range(2):
            reach = image.shape[axis] - dilation
            image = image.narrow(axis, 0, reach) + image.narrow(axis, dilation, reach)
        image = image * 0.25
    return image


def low_frequency(image: torch.Tensor, levels: int = LEVELS) -> torch.Tensor:
    """The residual of an a-trous wavelet decomposition.

    It is `levels` blurs with dilation 1, 2, 4, ...
    """
    for level in range(levels):
        image = _blur(image, 2**level)
    return image


def wavelet(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """High frequencies of `target` over the low frequency of `source`; equal sizes.

    One blur does: it is linear.
    """
    return target + low_frequency(source - target)


def ycbcr(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """The luma of `target` with the chroma of `source`; equal sizes.

    Chroma is what is left of a colour without its luma. So the difference of both lumas, added to
    all channels of `source`, does it.
    """
    weights = target.new_tensor(LUMA).view(1, 3, 1, 1)
    return source + ((target - source) * weights).sum(1, keepdim=True)


def _adain_fix(image: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
    return adain(image.clamp(0, 1), upsample(lr))


def _wavelet_fix(image: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
    return wavelet(image.clamp(0, 1), upsample(lr))


def _ycbcr_fix(image: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
    return ycbcr(image.clamp(0, 1), upsample(lr))


def _no_fix(image: torch.Tensor, _lr: torch.Tensor) -> torch.Tensor:
    return image


# Name -> fix of (image [B, 3, 4h, 4w] as the network gives it, lr [B, 3, h, w] in [0, 1]). The
# result may leave [0, 1]. OSEDiff clamps before and matches the enlarged input; AdcSR does not
# clamp and matches the input as it is.
FIXES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "adain": _adain_fix,
    "wavelet": _wavelet_fix,
    "mean_std": mean_std,
    "ycbcr": _ycbcr_fix,
    "none": _no_fix,
}
