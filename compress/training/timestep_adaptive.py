"""AddSR's distillation (arXiv 2404.01717): timestep-adaptive adversarial diffusion distillation.

    d_b = TA(t_b) * mean over teacher states, channels and pixels of
          sqrt(abar(t_teacher)) * ((x0_teacher - x0_student) / 2)^2

Images are in [-1, 1], clamped. The teacher sees the student's latent, noised at four random
timesteps, beside the photograph.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from compress.process.epsilon_chains import ADDSR_TIMESTEPS
from compress.process.one_step import alphas_cumprod
from compress.training.controlled import clean_of

STATES = 4  # of the teacher, for each sample
BASE, RATIO = 0.5, 2.1  # of TA: BASE * RATIO ** (s - 1)
ALONE = 1000  # what the authors' program takes for the timestep of a single pass


def adaptive(timesteps: torch.Tensor) -> torch.Tensor:
    """TA of timesteps int64 [B], float [B]: 0.5 at 999, 1.05 at 749, 2.205 at 499, else 4.6305."""
    factors = [BASE * RATIO**step for step in range(len(ADDSR_TIMESTEPS))]
    found = torch.full(timesteps.shape, factors[-1], device=timesteps.device)
    for timestep, factor in zip(ADDSR_TIMESTEPS, factors, strict=True):
        found[timesteps == timestep] = factor
    return found


def lower(timesteps: torch.Tensor) -> torch.Tensor:
    """The timesteps of the next step of the chain, int64 [B]; the last one has none."""
    found = timesteps.clone()
    for here, there in pairwise(ADDSR_TIMESTEPS):
        found[timesteps == here] = there
    return found


def signals(timesteps: torch.Tensor) -> torch.Tensor:
    """sqrt(abar) of timesteps of any shape, float32 of that shape."""
    return alphas_cumprod().to(timesteps.device)[timesteps].sqrt().float()


def distances(
    student: torch.Tensor, teacher: torch.Tensor, signal: torch.Tensor, factors: torch.Tensor
) -> torch.Tensor:
    """d_b of each sample, [B].

    Args:
        student: Its images, [B, 3, H, W] in [-1, 1].
        teacher: Those of its states, [4, B, 3, H, W] in [-1, 1].
        signal: sqrt(abar) of these states, [4, B, 1, 1, 1].
        factors: TA of each sample, [B].
    """
    squared = signal * ((teacher - student) / 2).square()
    return squared.mean(dim=(0, 2, 3, 4)) * factors


@dataclass(frozen=True)
class Prompted:
    """The networks of one side.

    Attributes:
        control: (state, condition, text, tokens, timesteps) -> residuals. The condition is an
            image in [0, 1].
        denoiser: (state, text, tokens, *residuals, timesteps) -> epsilon.
        text: [1 or B, tokens, dim]; None for the networks' own.
    """

    control: Callable[..., Sequence[torch.Tensor]]
    denoiser: nn.Module
    text: torch.Tensor | None

    def clean(
        self, state: torch.Tensor, timesteps: torch.Tensor, condition: Any, tokens: torch.Tensor
    ) -> torch.Tensor:
        """The clean latent [B, C, h, w].

        Args:
            state: A noised latent.
            timesteps: int64 [B].
            condition: What the control network sees.
            tokens: Of an image, [1 or B, tokens, width].
        """
        residuals = self.control(state, condition, self.text, tokens, timesteps)
        eps = self.denoiser(state, self.text, tokens, *residuals, timesteps)
        return clean_of(state, eps, timesteps)
