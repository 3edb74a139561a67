"""Real-ESRGAN's second-order degradation (arXiv 2107.10833, section 3) on batches of torch tensors.

Blur -> resize -> noise -> JPEG, twice, with a sinc filter at the end. As in the original, blur,
noise and JPEG strength differ per image while resize factors and the kinds of noise are drawn per
batch. All randomness comes from one generator, so a seed gives the same pairs on every run.
"""

import math

import torch
import torch.nn.functional as F

from compress.data.jpeg import jpeg
from compress.data.presets import Degradation, SecondOrder, Stage

KERNEL_SIZE = 21
SMALLEST = 8  # pixels: no stage makes a smaller image
# Of iso- and anisotropic Gaussian, generalised Gaussian and plateau kernels, in this order.
KERNEL_KINDS = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
# Poisson noise counts photons in this many grey levels; the original rounds the number of distinct
# values up to a power of two.
GREY_LEVELS = 256.0
LUMA = (0.2989, 0.587, 0.114)


class _Dice:
    """Uniform draws from one generator."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=self.generator) * (high - low) + low

    def one(self, low: float = 0.0, high: float = 1.0) -> float:
        return self.uniform(low, high).item()

    def choice(self, probabilities: tuple[float, ...], count: int) -> torch.Tensor:
        weights = torch.tensor(probabilities)
        return torch.multinomial(weights, count, replacement=True, generator=self.generator)

    def pick(self, probabilities: tuple[float, ...]) -> int:
        """One index, drawn by its probability."""
        return int(self.choice(probabilities, 1))


def blur_kernels(dice: _Dice, count: int, sigma: tuple[float, float]) -> torch.Tensor:
    """Iso- and anisotropic Gaussian, generalised Gaussian and plateau kernels.

    Args:
        dice: Source of all randomness.
        count: How many kernels.
        sigma: Standard deviation in pixels, from and to.

    Returns:
        [count, 21, 21], each of sum 1.
    """
    kind = dice.choice(KERNEL_KINDS, count)
    sigma_x = dice.uniform(*sigma, count)
    sigma_y = dice.uniform(*sigma, count)
    sigma_y = torch.where(kind % 2 == 0, sigma_x, sigma_y)
    angle = dice.uniform(-math.pi, math.pi, count)
    # The shape parameter is drawn evenly on both sides of 1.
    wide = dice.uniform(0, 1, count) < 0.5
    generalised = torch.where(wide, dice.uniform(0.5, 1, count), dice.uniform(1, 4, count))
    plateau = torch.where(wide, dice.uniform(1, 1, count), dice.uniform(1, 2, count))
    cos = angle.cos()[:, None, None]
    sin = angle.sin()[:, None, None]
    y, x = _grid()
    u = (cos * x + sin * y) / sigma_x[:, None, None]
    v = (-sin * x + cos * y) / sigma_y[:, None, None]
    q = u**2 + v**2
    beta = torch.where(kind < 2, torch.ones(count), torch.where(kind < 4, generalised, plateau))
    beta = beta[:, None, None]
    is_gaussian = (kind < 4)[:, None, None]
    kernel = torch.where(is_gaussian, torch.exp(-0.5 * q**beta), 1 / (q**beta + 1))
    return _crop(kernel, dice, count)


def sinc_kernels(
    dice: _Dice, count: int, cutoff: tuple[float, float] = (math.pi / 5, math.pi)
) -> torch.Tensor:
    """Circular low-pass filters, the source of ringing: [count, 21, 21], each of sum 1."""
    omega = dice.uniform(*cutoff, count)[:, None, None]
    y, x = _grid()
    radius = torch.sqrt(x**2 + y**2)
    safe = radius.clamp(min=1e-6)
    kernel = omega * torch.special.bessel_j1(omega * safe) / (2 * math.pi * safe)
    kernel = torch.where(radius == 0, omega**2 / (4 * math.pi), kernel)
    return _crop(kernel, dice, count)


def _grid() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of a kernel, counted from its centre: float32 [21, 21] each."""
    axis = torch.arange(KERNEL_SIZE, dtype=torch.float32) - KERNEL_SIZE // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return y, x


def _crop(kernel: torch.Tensor, dice: _Dice, count: int) -> torch.Tensor:
    """Random odd support of 7 to 21, as zeros outside."""
    half = torch.randint(3, KERNEL_SIZE // 2 + 1, (count,), generator=dice.generator)[:, None, None]
    axis = (torch.arange(KERNEL_SIZE) - KERNEL_SIZE // 2).abs()
    kernel = kernel * (torch.maximum(axis[:, None], axis[None]) <= half)
    return kernel / kernel.sum((-2, -1), keepdim=True)


def filter2d(image: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Filter each image of [B, C, H, W] with its own kernel of [B, k, k]; reflected borders."""
    batch, channels, height, width = image.shape
    pad = kernels.shape[-1] // 2
    mode = "reflect" if min(height, width) > pad else "replicate"
    padded = F.pad(image, (pad, pad, pad, pad), mode=mode)
    weight = kernels.to(image)[:, None, None].expand(-1, channels, 1, -1, -1).flatten(0, 1)
    filtered = F.conv2d(padded.flatten(0, 1)[None], weight, groups=batch * channels)
    return filtered.view(batch, channels, height, width)


def _resize(dice: _Dice, image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The image [B, C, *, *] at another size, by a filter that is drawn."""
    mode = ("area", "bilinear", "bicubic")[dice.pick((1.0, 1.0, 1.0))]
    if mode == "area":
        return F.interpolate(image, size=size, mode=mode)
    return F.interpolate(image, size=size, mode=mode, align_corners=False)


def _noise(dice: _Dice, image: torch.Tensor, stage: Stage, config: SecondOrder) -> torch.Tensor:
    """The image [B, 3, H, W] with noise, in [0, 1]."""
    count = image.shape[0]
    gray = (dice.uniform(0, 1, count, 1, 1, 1) < config.gray_probability).to(image)
    if dice.one() < config.gaussian_probability:
        sigma = dice.uniform(*stage.gaussian_noise, count, 1, 1, 1).to(image) / 255
        colour = torch.randn(image.shape, generator=dice.generator).to(image)
        noise = sigma * (gray * colour[:, :1] + (1 - gray) * colour)
    else:
        scale = dice.uniform(*stage.poisson_scale, count, 1, 1, 1).to(image)
        clean = (image.clamp(0, 1) * 255).round() / 255
        luma = (clean * clean.new_tensor(LUMA)[None, :, None, None]).sum(1, keepdim=True)
        gray_noise = gray * _poisson_noise(dice, luma)
        noise = scale * (gray_noise + (1 - gray) * _poisson_noise(dice, clean))
    return (image + noise).clamp(0, 1)


def _poisson_noise(dice: _Dice, rate: torch.Tensor) -> torch.Tensor:
    """What a count of photons of mean `rate` (1 is white) differs by from it."""
    photons = torch.poisson((rate * GREY_LEVELS).cpu(), generator=dice.generator)
    return photons.to(rate) / GREY_LEVELS - rate


def degrade(
    hr: torch.Tensor,
    config: Degradation,
    generator: torch.Generator,
    scale: int = 4,
) -> torch.Tensor:
    """Low-resolution partners of photographs.

    Args:
        hr: Float [B, 3, H, W] in [0, 1].
        config: What is done to them. Of several the batch gets one, drawn evenly.
        generator: Source of all randomness.
        scale: How many times smaller the result is.

    Returns:
        [B, 3, H/scale, W/scale] in [0, 1], rounded to 8 bits.
    """
    dice = _Dice(generator)
    if isinstance(config, tuple):
        config = config[dice.pick((1.0,) * len(config))]
    count, _, height, width = hr.shape
    final = (height // scale, width // scale)
    image = hr
    for stage in (config.first, config.second):
        kernels = blur_kernels(dice, count, stage.blur_sigma)
        sinc = dice.uniform(0, 1, count) < config.sinc_probability
        kernels = torch.where(sinc[:, None, None], sinc_kernels(dice, count), kernels)
        if dice.one() < stage.blur_probability:
            image = filter2d(image, kernels)
        kind = dice.pick(stage.resize_probability)
        smallest, largest = stage.resize_range
        up = dice.one(1, largest)  # both are drawn, whichever is used
        down = dice.one(smallest, 1)
        factor = (up, down, 1.0)[kind]
        base = (height, width) if stage is config.first else final
        rows = max(SMALLEST, round(base[0] * factor))
        columns = max(SMALLEST, round(base[1] * factor))
        image = _resize(dice, image, (rows, columns))
        image = _noise(dice, image, stage, config)
        quality = dice.uniform(*stage.jpeg_quality, count).to(hr)
        if stage is config.first:
            image = jpeg(image.clamp(0, 1), quality)
    sharp = torch.zeros(count, KERNEL_SIZE, KERNEL_SIZE)
    sharp[:, KERNEL_SIZE // 2, KERNEL_SIZE // 2] = 1
    ringing = dice.uniform(0, 1, count) < config.final_sinc_probability
    filters = sinc_kernels(dice, count, (math.pi / 3, math.pi))
    kernels = torch.where(ringing[:, None, None], filters, sharp)
    if dice.one() < 0.5:
        image = filter2d(_resize(dice, image, final), kernels)
        image = jpeg(image.clamp(0, 1), quality)
    else:
        image = jpeg(image.clamp(0, 1), quality)
        image = filter2d(_resize(dice, image, final), kernels)
    return (image.clamp(0, 1) * 255).round() / 255
