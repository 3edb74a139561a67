"""InvSR's training step (arXiv 2412.09013): a predicted noise, and one call of the frozen UNet.

With sigma = sqrt(1 - abar) / sqrt(abar) the state is z + sigma * noise. The UNet sees it divided by
sqrt(sigma^2 + 1), and the clean latent is state - sigma * eps.
"""

import torch
from torch import nn

from compress.networks.noise_predictor import NoisePredictor
from compress.process.one_step import alphas_cumprod


def sigmas(timesteps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """sigma of timesteps int64 [B], as [B, 1, 1, 1] of the type and device of `like`."""
    bars = alphas_cumprod().to(timesteps.device)[timesteps].view(-1, 1, 1, 1)
    return ((1 - bars) / bars).sqrt().to(like)


def noised_start(
    predictor: NoisePredictor,
    lr: torch.Tensor,
    latent: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
) -> torch.Tensor:
    """The state [B, C, h, w] that a sample of the predicted noise makes of a latent.

    Args:
        predictor: Gives mean and deviation of the noise.
        lr: The low-resolution image, [B, 3, 2h, 2w] in [0, 1].
        latent: Of that image, [B, C, h, w].
        noise: Standard normal, of the shape of the latent.
        timesteps: int64 [B].
    """
    predicted = predictor.sample(lr, noise, timesteps)
    return latent + sigmas(timesteps, latent) * predicted


def clean_of(
    denoiser: nn.Module,
    state: torch.Tensor,
    timesteps: torch.Tensor,
    context: torch.Tensor | None,
) -> torch.Tensor:
    """The clean latent [B, C, h, w] of a state, by one call.

    Args:
        denoiser: Predicts epsilon.
        state: As `noised_start` gives it.
        timesteps: int64 [B].
        context: The text, [1 or B, tokens, dim]; None for the denoiser's own.
    """
    sigma = sigmas(timesteps, state)
    eps: torch.Tensor = denoiser(state / (sigma.square() + 1).sqrt(), context, timesteps)
    return state - sigma * eps
