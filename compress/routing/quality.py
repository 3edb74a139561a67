"""The quality R that a router is trained to predict."""

from collections.abc import Callable

import torch

from compress.core.errors import UserError
from compress.routing.config import RouterConfig
from compress.training import losses

# R per unit of the metric. R is -LPIPS, or PSNR in units of 10 dB, so that usual differences lie
# within tanh's range.
UNIT = {"lpips": 1.0, "psnr": 0.1}
LEAST_ERROR = 1e-10  # mean square error below which images count as equal: 100 dB

# (image, original), both [B, 3, H, W] in [0, 1] -> R [B]
Quality = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


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
