"""CCSR's chains: a jump from the noisiest timestep, a few steps, the clean latent of the last.

The first call, at t = 999, gives a clean latent, which is noised again for about two thirds of the
schedule. From there DDPM's steps follow down to about one third, whose clean latent is the result.

Versions: 1 (arXiv 2401.00877) has a spaced schedule of its own, version 2 (branch CCSR-v2.0)
diffusers' DDPMScheduler with leading spacing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from compress.core.errors import UserError
from compress.process.codebook import Skip, clean
from compress.process.epsilon_chains import LAST, first_state, noise, noised
from compress.process.ladder import EpsilonLadder
from compress.process.linear_steps import STATE, LinearSteps, Row
from compress.process.noise import DRAW, PERIOD, draws
from compress.process.one_step import alphas_cumprod


@dataclass(frozen=True)
class Posterior:
    """DDPM's step from one timestep to an earlier one, "fixed small" variance.

    Attributes:
        of_clean: Factor of the clean latent.
        of_state: Factor of the state.
        variance: Of the fresh noise.
    """

    of_clean: float
    of_state: float
    variance: float


def posterior(alpha_bar: float, earlier: float) -> Posterior:
    """The step from where `alpha_bar` stands in the schedule to where `earlier` does."""
    return Posterior(*Skip(LAST, 0, alpha_bar, earlier).ddpm)


def spaced_timesteps(steps: int) -> tuple[int, ...]:
    """Version 1's timesteps from 0 to 999, ascending.

    The stride is added up in floating point and rounded half to even, as the authors do: index 22
    of 45 is 499, where 22 * 999 / 44 would round to 500.
    """
    stride = LAST / (steps - 1)
    found, position = [], 0.0
    for _ in range(steps):
        found.append(round(position))
        position += stride
    return tuple(found)


def spaced_chain(steps: int = 45, t_max: float = 0.6667, t_min: float = 0.3333) -> LinearSteps:
    """Version 1: from noise alone, with 1 + round(steps * t_max) - round(steps * t_min) calls.

    Args:
        steps: Timesteps of the spaced schedule.
        t_max: Where the jump lands, as a share of the schedule.
        t_min: Where the chain ends.

    Raises:
        UserError: There would be no step after the jump.
    """
    if steps < 2:
        raise UserError(f"steps: {steps} is too few; version 1 needs at least 2")
    timesteps = spaced_timesteps(steps)
    table = alphas_cumprod(dtype=torch.float64)
    bars = [table[t].item() for t in timesteps]
    indices = range(round(steps * t_max) - 1, round(steps * t_min) - 1, -1)
    landing = round((steps - 1) * t_max)
    if not indices or indices[-1] < 1:
        raise UserError(_no_loop(steps, t_max, t_min))
    rows = [Row(LAST, noised(clean(bars[-1]), bars[landing], 1))]
    visited = [bars[-1], *(bars[index] for index in indices)]
    for draw, index in enumerate(indices, start=2):
        factors = clean(bars[index])
        if index != indices[-1]:
            factors = _next_state(bars[index], bars[index - 1], draw)
        rows.append(Row(timesteps[index], factors))
    return _chain({noise(0): 1.0}, rows, visited)


def leading_chain(
    steps: int = 1, t_max: float = 0.6667, t_min: float = 0.0, start: str = "lr"
) -> LinearSteps:
    """Version 2: from the latent of the input with noise.

    One step ignores `t_max` and `t_min`. The authors' "2 steps" are 6, 0.6667 and 0.5: calls at 999
    and 499.

    Args:
        steps: Timesteps of the schedule.
        t_max: Where the jump lands, as a share of the schedule.
        t_min: Where the chain ends. Above 0 the result is the clean latent of the last call, else
            the last state.
        start: `lr` or `noise`, see `first_state`.

    Raises:
        UserError: There would be no step after the jump, or `start` is unknown.
    """
    if not 1 <= steps <= LAST + 1:
        raise UserError(f"steps: {steps} is out of range; choose from 1 to {LAST + 1}")
    table = alphas_cumprod()
    first = table[LAST].item()
    begin = first_state(start, first)
    if steps == 1:
        return _chain(begin, [Row(LAST, clean(first))], [first])
    stride = (LAST + 1) // steps
    timesteps = [i * stride + 1 for i in range(steps)][::-1]
    taken = round(steps * t_max)
    left_out = round(steps * t_min)
    loop = timesteps[len(timesteps) - taken : len(timesteps) - left_out]
    if taken == 0 or not loop or (t_min > 0 and left_out == 0):
        raise UserError(_no_loop(steps, t_max, t_min))
    bars = [table[t].item() for t in loop]
    rows = [Row(LAST, noised(clean(first), bars[0], 1))]
    for draw, timestep in enumerate(loop, start=2):
        bar = table[timestep].item()
        earlier = timestep - stride
        is_result = t_min > 0 and timestep == loop[-1]
        if is_result or earlier < 0:
            factors = clean(bar)  # at the end of the schedule the next state is the clean latent
        else:
            factors = _next_state(bar, table[earlier].item(), draw)
        rows.append(Row(timestep, factors))
    return _chain(begin, rows, [first, *bars])


def _next_state(alpha_bar: float, earlier: float, draw: int) -> dict[str, float]:
    """DDPM's step as factors, with the noise of a draw."""
    step = posterior(alpha_bar, earlier)
    factors = clean(alpha_bar, step.of_clean)
    factors[STATE] += step.of_state
    return {**factors, noise(draw): math.sqrt(step.variance)}


def _chain(start: dict[str, float], rows: Sequence[Row], bars: Sequence[float]) -> LinearSteps:
    """The chain, with the values that it reads in their order; `bars` are abar_t of its calls."""
    read = {name: None for factors in (start, *(row.factors for row in rows)) for name in factors}
    drawn = sorted(draws(read), key=lambda name: int(name.removeprefix(DRAW)))
    latent = ["latent"] if "latent" in read else []
    timesteps = tuple(row.timestep for row in rows)
    ladder = EpsilonLadder(timesteps, tuple(bars), start, "ddpm", jump=True)
    names = (*latent, *drawn)
    return LinearSteps(start, tuple(rows), names, PERIOD, clean(bars[0]), ladder)


def _no_loop(steps: int, t_max: float, t_min: float) -> str:
    return (
        f"steps {steps}, t_max {t_max} and t_min {t_min} leave no step after the jump; raise steps "
        "or t_max, or lower t_min"
    )
