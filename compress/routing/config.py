"""How a router is trained, and the quality R that it is trained to predict."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from compress.core.errors import UserError
from compress.training import losses

# R per unit of the metric. R is -LPIPS, or PSNR in units of 10 dB, so that usual differences lie
# within tanh's range.
UNIT = {"lpips": 1.0, "psnr": 0.1}
LEAST_ERROR = 1e-10  # mean square error below which images count as equal: 100 dB

# (image, original), both [B, 3, H, W] in [0, 1] -> R [B]
Quality = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class RouterConfig:
    """The settings of one training.

    Attributes:
        folders: Photographs to train on; "embedded" stands for those that come with scikit-image.
        metric: "lpips", which needs `lpips_weights`, or "psnr", by which a diffusion model seldom
            wins.
        lpips_weights: A file with pyiqa's names.
        lpips_net: The network of LPIPS: squeeze, alex or vgg.
        degradation: How the photographs become small, a name of PRESETS.
        tiles: How many tiles are measured.
        crop: Side of the HR crops in pixels. The networks are convolutional, so tiles of other
            sizes are routed as well.
        cnn_steps: Optimiser steps of the CNN.
        steps: Optimiser steps of the regressor.
        batch: Images or tiles a step.
        tolerance: Loss of the metric, in LPIPS or dB, that the default threshold may cost on
            held-out tiles.
        seed: Makes the training repeatable.
    """

    folders: tuple[str, ...]
    metric: str = "lpips"
    lpips_weights: str | None = None
    lpips_net: str = "squeeze"
    degradation: str = "mild"
    tiles: int = 600
    crop: int = 256
    cnn_steps: int = 1500
    steps: int = 1500
    batch: int = 16
    tolerance: float = 0.005
    seed: int = 0


def quality(config: RouterConfig, device: torch.device) -> Quality:
    """The function that gives R.

    Raises:
        UserError: The metric is LPIPS, and its weights are not given or cannot be read.
    """
    if config.metric == "psnr":
        return _psnr
    if config.lpips_weights is None:
        raise UserError(
            "--metric lpips needs --lpips-weights FILE; without one choose --metric psnr, by which "
            "smooth paths win"
        )
    metric = losses.lpips(config.lpips_weights, config.lpips_net).to(device)
    return lambda image, original: -metric(image, original).reshape(-1)


def _psnr(image: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """PSNR of each image in units of 10 dB."""
    error = (image - original).square().mean((1, 2, 3)).clamp_min(LEAST_ERROR)
    return -torch.log10(error)
