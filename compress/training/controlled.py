"""Training steps of a diffusion that a control network steers: CCSR (arXiv 2401.00877), DoSSR.

A step calls the control network and the UNet, and makes a clean latent of the predicted epsilon:

    x0 = (state - s(t) * eps) / a(t)        with a = sqrt(abar), s = sqrt(1 - abar)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from compress.process.epsilon_chains import LAST
from compress.process.one_step import alphas_cumprod
from compress.process.shift_solver import shares
from compress.training.terms import Terms, Weights, wants

JUMP = 667  # CCSR's timestep behind its jump from the noisiest one


def signal_and_noise(timesteps: torch.Tensor, like: torch.Tensor) -> tuple[Any, Any]:
    """a(t) and s(t) of timesteps int64 [B], each [B, 1, 1, 1] of the type of `like`."""
    bars = alphas_cumprod().to(timesteps.device)[timesteps].view(-1, 1, 1, 1)
    return bars.sqrt().to(like), (1 - bars).sqrt().to(like)


def noised(clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """The state [B, C, h, w] of a clean latent and noise of that shape, at timesteps int64 [B]."""
    signal, strength = signal_and_noise(timesteps, clean)
    state: torch.Tensor = signal * clean + strength * noise
    return state


@dataclass(frozen=True)
class Steps:
    """What a training step calls.

    Attributes:
        control: (state, condition, context, timesteps) -> residuals.
        denoiser: (state, context, *residuals, timesteps) -> epsilon.
        condition: Of the control network.
        context: The text [1 or B, tokens, dim].
        locked: Whether the UNet's encoder runs without gradient, so that gradients reach the state
            through the control network alone.
    """

    control: Callable[..., Any]
    denoiser: nn.Module
    condition: torch.Tensor
    context: torch.Tensor | None
    locked: bool

    def eps(self, state: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The predicted epsilon [B, C, h, w] at timesteps int64 [B] or [1]."""
        timesteps = timesteps.expand(len(state))
        residuals = self.control(state, self.condition, self.context, timesteps)
        seen = state.detach() if self.locked else state
        found: torch.Tensor = self.denoiser(seen, self.context, *residuals, timesteps)
        return found

    def clean(self, state: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The clean latent [B, C, h, w]."""
        return clean_of(state, self.eps(state, timesteps), timesteps)


def clean_of(state: torch.Tensor, eps: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """The clean latent [B, C, h, w] of a state and its epsilon."""
    signal, strength = signal_and_noise(timesteps, state)
    found: torch.Tensor = (state - strength * eps) / signal
    return found


@dataclass(frozen=True)
class Draws:
    """What a step of CCSR draws.

    Attributes:
        timesteps: For the loss `noise`, int64 [B], below JUMP.
        at_random: Standard normal noise for these, [B, C, h, w].
        at_last: The same for the noisiest timestep.
        at_jump: The same behind the jump.
    """

    timesteps: torch.Tensor
    at_random: torch.Tensor
    at_last: torch.Tensor
    at_jump: torch.Tensor

    @classmethod
    def like(cls, latent: torch.Tensor) -> "Draws":
        """Those of a latent [B, C, h, w]."""
        timesteps = torch.randint(JUMP, (len(latent),), device=latent.device)
        return cls(timesteps, *(torch.randn_like(latent) for _ in range(3)))


def truncated_terms(
    steps: Steps, latent: torch.Tensor, begin: torch.Tensor, draws: Draws, weights: Weights
) -> Terms:
    """CCSR's losses of its first stage, those that are wanted. All are mean squares.

    | term         | what it compares                                                     |
    |--------------|----------------------------------------------------------------------|
    | `noise`      | epsilon at a random timestep below 667                               |
    | `first`      | the clean latent of the noisiest timestep                            |
    | `jump`       | that of 667, from the first one, with a gradient through both        |
    | `jump_noise` | epsilon there; version 1 has it as well                              |

    Args:
        steps: The networks.
        latent: The clean latent of the photograph.
        begin: What is noised for the first call: that latent, or that of the input.
        draws: Timesteps and noise.
        weights: Tells which terms are wanted.
    """
    terms: Terms = {}
    if wants(weights, "noise"):
        state = noised(latent, draws.at_random, draws.timesteps)
        terms["noise"] = F.mse_loss(steps.eps(state, draws.timesteps), draws.at_random)
    if not wants(weights, "first", "jump", "jump_noise"):
        return terms
    last = torch.tensor([LAST], device=latent.device)
    first = steps.clean(noised(begin, draws.at_last, last), last)
    if wants(weights, "first"):
        terms["first"] = F.mse_loss(first, latent)
    if wants(weights, "jump", "jump_noise"):
        jump = torch.tensor([JUMP], device=latent.device)
        state = noised(first, draws.at_jump, jump)
        eps = steps.eps(state, jump)
        if wants(weights, "jump"):
            terms["jump"] = F.mse_loss(clean_of(state, eps, jump), latent)
        if wants(weights, "jump_noise"):
            terms["jump_noise"] = F.mse_loss(eps, draws.at_jump)
    return terms


def shifted(
    clean: torch.Tensor, condition: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """DoSSR's state [B, C, h, w]: its mean goes from the clean latent to that of the input.

    Args:
        clean: z_0, [B, C, h, w].
        condition: z_L, of that shape.
        noise: Standard normal, of that shape.
        timesteps: int64 [B].
    """
    share = shares().to(timesteps.device)[timesteps].view(-1, 1, 1, 1).to(clean)
    return noised(share * condition + (1 - share) * clean, noise, timesteps)
