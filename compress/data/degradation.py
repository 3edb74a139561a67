"""Real-ESRGAN's second-order degradation (arXiv 2107.10833, section 3) on batches of torch tensors.

Blur -> resize -> noise -> JPEG, twice, with a sinc filter at the end. As in the original, blur, noise and JPEG
strength differ per image while resize factors and the kinds of noise are drawn per batch. All randomness comes
from one generator, so a seed gives the same pairs on every run.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from compress.data.jpeg import jpeg

KERNEL_SIZE = 21


@dataclass(frozen=True)
class Stage:
    """One blur-resize-noise-JPEG round. Noise is in 8-bit units, blur in pixels."""

    blur_probability: float
    blur_sigma: tuple[float, float]
    resize_probability: tuple[float, float, float]  # up, down, keep
    resize_range: tuple[float, float]
    gaussian_noise: tuple[float, float]
    poisson_scale: tuple[float, float]
    jpeg_quality: tuple[float, float]


@dataclass(frozen=True)
class Degradation:
    first: Stage
    second: Stage
    gaussian_probability: float = 0.5
    gray_probability: float = 0.4
    sinc_probability: float = 0.1
    final_sinc_probability: float = 0.8


PRESETS = {
    "realesrgan": Degradation(
        Stage(1.0, (0.2, 3.0), (0.2, 0.7, 0.1), (0.15, 1.5), (1, 30), (0.05, 3.0), (30, 95)),
        Stage(0.8, (0.2, 1.5), (0.3, 0.4, 0.3), (0.3, 1.2), (1, 25), (0.05, 2.5), (30, 95)),
    ),
    # AdcSR's milder setting, nearer to photographs of a present-day camera.
    "mild": Degradation(
        Stage(1.0, (0.1, 1.5), (0.2, 0.7, 0.1), (0.3, 1.5), (1, 15), (0.05, 2.0), (60, 95)),
        Stage(0.5, (0.1, 1.0), (0.3, 0.4, 0.3), (0.6, 1.2), (1, 12), (0.05, 1.0), (60, 100)),
    ),
}
# One of several for each batch, drawn evenly.
PRESETS["mixed"] = (PRESETS["mild"], PRESETS["realesrgan"])


class _Dice:
    """Uniform draws from one generator."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=self.generator) * (high - low) + low

    def one(self, low: float = 0.0, high: float = 1.0) -> float:
        return self.uniform(low, high).item()

    def choice(self, probabilities: tuple[float, ...], count: int) -> torch.Tensor:
        return torch.multinomial(
            torch.tensor(probabilities), count, replacement=True, generator=self.generator
        )


def blur_kernels(dice: _Dice, count: int, sigma: tuple[float, float]) -> torch.Tensor:
    """Iso- and anisotropic Gaussian, generalised Gaussian and plateau kernels: [count, 21, 21], each of sum 1."""
    kind = dice.choice((0.45, 0.25, 0.12, 0.03, 0.12, 0.03), count)
    sigma_x, sigma_y = dice.uniform(*sigma, count), dice.uniform(*sigma, count)
    sigma_y = torch.where(kind % 2 == 0, sigma_x, sigma_y)
    angle = dice.uniform(-math.pi, math.pi, count)
    # The shape parameter is drawn evenly on both sides of 1.
    wide = dice.uniform(0, 1, count) < 0.5
    generalised = torch.where(wide, dice.uniform(0.5, 1, count), dice.uniform(1, 4, count))
    plateau = torch.where(wide, dice.uniform(1, 1, count), dice.uniform(1, 2, count))
    cos, sin = angle.cos(), angle.sin()
    axis = torch.arange(KERNEL_SIZE, dtype=torch.float32) - KERNEL_SIZE // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    u = (cos[:, None, None] * x + sin[:, None, None] * y) / sigma_x[:, None, None]
    v = (-sin[:, None, None] * x + cos[:, None, None] * y) / sigma_y[:, None, None]
    q = u**2 + v**2
    beta = torch.where(kind < 2, torch.ones(count), torch.where(kind < 4, generalised, plateau))[
        :, None, None
    ]
    kernel = torch.where((kind < 4)[:, None, None], torch.exp(-0.5 * q**beta), 1 / (q**beta + 1))
    return _crop(kernel, dice, count)


def sinc_kernels(
    dice: _Dice, count: int, cutoff: tuple[float, float] = (math.pi / 5, math.pi)
) -> torch.Tensor:
    """Circular low-pass filters, the source of ringing: [count, 21, 21], each of sum 1."""
    omega = dice.uniform(*cutoff, count)[:, None, None]
    axis = torch.arange(KERNEL_SIZE, dtype=torch.float32) - KERNEL_SIZE // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    radius = torch.sqrt(x**2 + y**2)
    safe = radius.clamp(min=1e-6)
    kernel = omega * torch.special.bessel_j1(omega * safe) / (2 * math.pi * safe)
    kernel = torch.where(radius == 0, omega**2 / (4 * math.pi), kernel)
    return _crop(kernel, dice, count)


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
    padded = F.pad(image, (pad,) * 4, mode="reflect" if min(height, width) > pad else "replicate")
    weight = kernels.to(image)[:, None, None].expand(-1, channels, 1, -1, -1).flatten(0, 1)
    return F.conv2d(padded.flatten(0, 1)[None], weight, groups=batch * channels).view(
        batch, channels, height, width
    )


def _resize(dice: _Dice, image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    mode = ("area", "bilinear", "bicubic")[int(dice.choice((1.0, 1.0, 1.0), 1))]
    return F.interpolate(
        image, size=size, mode=mode, **({} if mode == "area" else {"align_corners": False})
    )


def _noise(dice: _Dice, image: torch.Tensor, stage: Stage, config: Degradation) -> torch.Tensor:
    count = image.shape[0]
    gray = (dice.uniform(0, 1, count, 1, 1, 1) < config.gray_probability).to(image)
    if dice.one() < config.gaussian_probability:
        sigma = dice.uniform(*stage.gaussian_noise, count, 1, 1, 1).to(image) / 255
        colour = torch.randn(image.shape, generator=dice.generator).to(image)
        noise = sigma * (gray * colour[:, :1] + (1 - gray) * colour)
    else:
        scale = dice.uniform(*stage.poisson_scale, count, 1, 1, 1).to(image)
        clean = (image.clamp(0, 1) * 255).round() / 255
        levels = (
            256.0  # the original rounds the number of distinct grey values up to a power of two
        )

        def sample(rate: torch.Tensor) -> torch.Tensor:
            return (
                torch.poisson((rate * levels).cpu(), generator=dice.generator).to(image) / levels
                - rate
            )

        luma = (clean * clean.new_tensor([0.2989, 0.587, 0.114])[None, :, None, None]).sum(
            1, keepdim=True
        )
        noise = scale * (gray * sample(luma) + (1 - gray) * sample(clean))
    return (image + noise).clamp(0, 1)


def degrade(
    hr: torch.Tensor,
    config: Degradation | tuple[Degradation, ...],
    generator: torch.Generator,
    scale: int = 4,
) -> torch.Tensor:
    """Low-resolution partners [B, 3, H/scale, W/scale] of float `hr` [B, 3, H, W] in [0, 1], 8-bit rounded.

    Of several in `config` the batch gets one, drawn evenly.
    """
    dice = _Dice(generator)
    if isinstance(config, tuple):
        config = config[int(dice.choice((1.0,) * len(config), 1))]
    count, _, height, width = hr.shape
    final = (height // scale, width // scale)
    image = hr
    for stage in (config.first, config.second):
        kernels = blur_kernels(dice, count, stage.blur_sigma)
        sinc = dice.uniform(0, 1, count) < config.sinc_probability
        kernels = torch.where(sinc[:, None, None], sinc_kernels(dice, count), kernels)
        if dice.one() < stage.blur_probability:
            image = filter2d(image, kernels)
        kind = int(dice.choice(stage.resize_probability, 1))
        factor = (dice.one(1, stage.resize_range[1]), dice.one(stage.resize_range[0], 1), 1.0)[kind]
        base = (height, width) if stage is config.first else final
        image = _resize(
            dice, image, (max(8, round(base[0] * factor)), max(8, round(base[1] * factor)))
        )
        image = _noise(dice, image, stage, config)
        quality = dice.uniform(*stage.jpeg_quality, count).to(hr)
        if stage is config.first:
            image = jpeg(image.clamp(0, 1), quality)
    sharp = torch.zeros(count, KERNEL_SIZE, KERNEL_SIZE)
    sharp[:, KERNEL_SIZE // 2, KERNEL_SIZE // 2] = 1
    ringing = dice.uniform(0, 1, count) < config.final_sinc_probability
    kernels = torch.where(
        ringing[:, None, None], sinc_kernels(dice, count, (math.pi / 3, math.pi)), sharp
    )
    if dice.one() < 0.5:
        image = jpeg(filter2d(_resize(dice, image, final), kernels).clamp(0, 1), quality)
    else:
        image = filter2d(_resize(dice, jpeg(image.clamp(0, 1), quality), final), kernels)
    return (image.clamp(0, 1) * 255).round() / 255
