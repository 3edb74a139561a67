"""LDM's chain for super-resolution: DDIM on its own schedule, from noise alone.

The schedule is that of CompVis/latent-diffusion's bsr_sr config [V]: beta = linspace(sqrt(0.0015),
sqrt(0.0155))^2. A step from t to s is

    x_s = sqrt(abar_s) x0 + sqrt(1 - abar_s - sigma^2) eps + sigma * noise
    sigma = eta sqrt((1 - abar_s) / (1 - abar_t)) sqrt(1 - abar_t / abar_s)

The document of the reference-guided LDM (Keldysh Institute preprint 2025-18) names no sampler. 50
steps with eta = 0, LDM's timesteps 1, 21, ... 981, and abar_0 behind the last of them are our
choice [REC].
"""

import math

import torch

from compress.core.errors import UserError
from compress.process.codebook import clean
from compress.process.ladder import EpsilonLadder, draw_of
from compress.process.linear_steps import PREDICTION, LinearSteps, Row
from compress.process.noise import PERIOD
from compress.process.one_step import alphas_cumprod

TIMESTEPS = 1000
BETAS = (0.0015, 0.0155)
STEPS = 50


def ldm_alphas() -> torch.Tensor:
    """abar_t of LDM's schedule, float64 [1000]."""
    return alphas_cumprod(*BETAS, steps=TIMESTEPS, dtype=torch.float64)


def ddim_step(alpha_bar: float, earlier: float, eta: float = 0.0) -> tuple[dict[str, float], float]:
    """A step of DDIM.

    Args:
        alpha_bar: abar at t.
        earlier: abar at s.
        eta: 0 for DDIM, 1 for as much noise as DDPM adds.

    Returns:
        The factors of x_s over `state` and `prediction`, and sigma, that of the noise.
    """
    rest = (1 - earlier) / (1 - alpha_bar) * (1 - alpha_bar / earlier)
    sigma = eta * math.sqrt(max(rest, 0.0))
    factors = clean(alpha_bar, math.sqrt(earlier))
    factors[PREDICTION] += math.sqrt(max(1 - earlier - sigma**2, 0.0))
    return factors, sigma


def ddim_timesteps(steps: int) -> tuple[int, ...]:
    """LDM's timesteps of that many steps, descending [REC].

    Raises:
        UserError: There are none or too many.
    """
    if not 1 <= steps <= TIMESTEPS:
        raise UserError(f"steps: {steps} is out of range; choose from 1 to {TIMESTEPS}")
    stride = TIMESTEPS // steps
    return tuple(min(i * stride + 1, TIMESTEPS - 1) for i in range(steps))[::-1]


def ddim_chain(steps: int = STEPS, eta: float = 0.0) -> LinearSteps:
    """The chain from noise alone to the clean latent.

    Args:
        steps: Calls of the network.
        eta: See `ddim_step`; above 0 each step but the last draws noise of its own.

    Raises:
        UserError: `steps` or `eta` is out of range.
    """
    if not 0 <= eta <= 1:
        raise UserError(f"eta: {eta} is out of range; choose from 0 to 1")
    timesteps = ddim_timesteps(steps)
    table = ldm_alphas()
    bars = [table[t].item() for t in timesteps]
    end = table[0].item()
    rows = []
    for step, timestep in enumerate(timesteps):
        is_last = step + 1 == steps
        factors, sigma = ddim_step(bars[step], end if is_last else bars[step + 1], eta)
        if sigma and not is_last:
            factors[draw_of(step + 1)] = sigma
        rows.append(Row(timestep, factors))
    start = {draw_of(0): 1.0}
    names = tuple(draw_of(i) for i in range(steps if eta else 1))
    ladder = EpsilonLadder(timesteps, tuple(bars), start, "ddim", end=end) if not eta else None
    return LinearSteps(start, tuple(rows), names, PERIOD, clean(bars[0]), ladder)
