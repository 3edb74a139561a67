"""Chains of steps for networks that predict epsilon, with the factors of published samplers.

With a(t) = sqrt(abar_t) and s(t) = sqrt(1 - abar_t), an epsilon network gives the clean latent

    x0 = (state - s(t) * prediction) / a(t)

at each step, and the next state is a weighted sum of x0, the state and fresh noise. The values of
noise are called `noise_0`, `noise_1` and so on, in the order in which they are drawn; a component
of the model makes them (`compress.networks.noise_maps`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch

from compress.core.errors import UserError
from compress.process.codebook import clean
from compress.process.ladder import EpsilonLadder
from compress.process.linear_steps import PREDICTION, STATE, LinearSteps, Row
from compress.process.noise import DRAW, PERIOD
from compress.process.one_step import alphas_cumprod

LAST = 999  # the noisiest timestep
# InvSR's timesteps by the number of steps, counted from 1 as its program lists them.
INVSR_TIMESTEPS: Mapping[int, tuple[int, ...]] = {
    1: (200,),
    2: (200, 100),
    3: (200, 100, 50),
    4: (200, 150, 100, 50),
    5: (250, 200, 150, 100, 50),
}
CONTEXT, NEGATIVE = "context", "negative_context"  # of the two prompts of guidance
ADDSR_TIMESTEPS = (999, 749, 499, 249)


def noise(draw: int) -> str:
    """The name of the value with the noise of a draw, counted from 0."""
    return f"{DRAW}{draw}"


def noised(clean_latent: Mapping[str, float], alpha_bar: float, draw: int) -> dict[str, float]:
    """A clean latent with fresh noise, at the place in the schedule where `alpha_bar` stands."""
    signal = math.sqrt(alpha_bar)
    found = {name: signal * factor for name, factor in clean_latent.items()}
    return {**found, noise(draw): math.sqrt(1 - alpha_bar)}


def inversion(listed: Sequence[int], schedule: torch.Tensor | None = None) -> LinearSteps:
    """InvSR's Euler steps from a predicted noise (arXiv 2412.09013).

    The authors' states are z + sigma * noise with sigma = s(t) / a(t), and their network sees them
    divided by sqrt(sigma^2 + 1) = 1 / a(t). Here the state is what the network sees. The first one
    is a weighted sum of `latent` and of `start_noise`, the noise predictor's.

    Args:
        listed: Timesteps from 1 to 1000, descending, as the authors' program lists them. The
            network is told one less.
        schedule: abar_t by timestep; None for diffusers'.

    Raises:
        UserError: The timesteps are none, do not descend or lie outside.
    """
    check_timesteps([t - 1 for t in listed], shown=listed)
    table = alphas_cumprod() if schedule is None else schedule
    bars = [table[t - 1].item() for t in listed]
    sigmas = [math.sqrt((1 - bar) / bar) for bar in bars] + [0.0]
    signals = [math.sqrt(bar) for bar in bars] + [1.0]
    start = {"latent": signals[0], "start_noise": signals[0] * sigmas[0]}
    rows = []
    for step, timestep in enumerate(listed):
        onward = signals[step + 1]
        factors = {
            STATE: onward / signals[step],
            PREDICTION: onward * (sigmas[step + 1] - sigmas[step]),
        }
        rows.append(Row(timestep - 1, factors))
    ladder = EpsilonLadder(tuple(t - 1 for t in listed), tuple(bars), start, "ddim")
    return LinearSteps(
        start,
        tuple(rows),
        ("latent", "start_noise"),
        first_clean=clean(bars[0]),
        ladder=ladder,
        scalable=("start_noise",),
    )


def renoised(timesteps: Sequence[int], start: str = "lr") -> LinearSteps:
    """AddSR's steps (arXiv 2404.01717): the clean latent, noised afresh for the next timestep.

    Args:
        timesteps: Descending, from 0 to 999.
        start: `lr` begins at the latent of the input with noise, `noise` at noise alone.

    Raises:
        UserError: The timesteps are none, do not descend or lie outside.
    """
    check_timesteps(timesteps)
    bars = [alphas_cumprod()[t].item() for t in timesteps]
    rows = []
    for step, (timestep, bar) in enumerate(zip(timesteps, bars, strict=True)):
        factors = clean(bar)
        if step + 1 < len(bars):
            factors = noised(factors, bars[step + 1], step + 1)
        rows.append(Row(timestep, factors))
    names = ("latent", *(noise(draw) for draw in range(len(rows))))
    begin = first_state(start, bars[0])
    ladder = EpsilonLadder(tuple(timesteps), tuple(bars), begin, "renoise")
    return LinearSteps(begin, tuple(rows), names, PERIOD, clean(bars[0]), ladder)


def contexts(process: LinearSteps) -> tuple[str, ...]:
    """The contexts that the components of a chain's steps read."""
    if NEGATIVE in process.inputs:
        return (CONTEXT, NEGATIVE)
    return (CONTEXT,)


def guided(process: LinearSteps, guidance: float, first: int = 0) -> LinearSteps:
    """A chain with classifier-free guidance: two calls a step, on two contexts.

        prediction = negative + guidance * (positive - negative)

    The first of the two reads `negative_context` in the place of `context`, and leaves the state.

    Args:
        process: The chain without guidance, whose rows read no earlier steps.
        guidance: The factor; 1 leaves the chain as it is.
        first: The first step that is guided. Those before it read the negative context alone.
    """
    if guidance == 1:
        return process
    negative = {CONTEXT: NEGATIVE}
    rows: list[Row] = []
    for step, row in enumerate(process.rows):
        if step < first:
            rows.append(Row(row.timestep, row.factors, negative))
            continue
        factors = dict(row.factors)
        gain = factors[PREDICTION]
        factors[PREDICTION] = guidance * gain
        factors[f"{PREDICTION}_{len(rows)}"] = (1 - guidance) * gain
        rows += [Row(row.timestep, {STATE: 1.0}, negative), Row(row.timestep, factors)]
    inputs = (*process.inputs, NEGATIVE)
    return replace(process, rows=tuple(rows), inputs=inputs, ladder=None)


def first_state(start: str, alpha_bar: float) -> dict[str, float]:
    """The factors of the first state.

    Args:
        start: `lr` for the latent of the input with noise, `noise` for noise alone.
        alpha_bar: abar_t at the first timestep.

    Raises:
        UserError: `start` is unknown.
    """
    if start == "lr":
        return noised({"latent": 1.0}, alpha_bar, 0)
    if start == "noise":
        return {noise(0): 1.0}
    raise UserError(f"start '{start}' is unknown; choose lr or noise")


def check_timesteps(timesteps: Sequence[int], shown: Sequence[int] | None = None) -> None:
    """Refuse timesteps that are none, do not descend, or lie outside 0 to 999.

    Args:
        timesteps: Counted from 0.
        shown: How the user wrote them.

    Raises:
        UserError: They are not right.
    """
    written = ", ".join(str(t) for t in (shown or timesteps))
    if not timesteps:
        raise UserError("timesteps: there are none; give at least one")
    if not 0 <= min(timesteps) <= max(timesteps) <= LAST:
        raise UserError(f"timesteps: {written}: one lies outside the 1000 of the schedule")
    if any(later >= earlier for earlier, later in pairwise(timesteps)):
        raise UserError(f"timesteps: {written} do not descend; give the largest first")
