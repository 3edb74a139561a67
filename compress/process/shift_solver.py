"""DoSSR's solvers (arXiv 2409.17778): a diffusion that shifts from HR to LR on the way.

    q(x_t) = N(a_t * [eta_t * z_L + (1 - eta_t) * z_0], 1 - abar_t)   with a_t = sqrt(abar_t)

From t = 499 on the mean is the latent of the LR image, so the chain starts there. With
A = a * (1 - eta), s = sqrt(1 - abar), l = s / A and r = l_next / l, a step of order 1 is

    x_next = (A_next / A) r^2 x + A_next [eta_next / (1 - eta_next) - r^2 eta / (1 - eta)] z_L
             + A_next (1 - r^2) x0 + A_next l_next sqrt(1 - r^2) noise

Orders 2 and 3 expand x0 in l, by the x0 of the one or two steps before. At 499 eta is within 2.5e-6
of 1 and l is 6.5e5, so all scalars are float64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from compress.core.errors import UserError
from compress.process.codebook import clean
from compress.process.epsilon_chains import first_state, noise
from compress.process.linear_steps import PREDICTION, STATE, Factors, LinearSteps, Row
from compress.process.noise import PERIOD
from compress.process.one_step import alphas_cumprod

START = 499  # the timestep of the first call
ORDERS = (1, 2, 3)


def shares() -> torch.Tensor:
    """eta_t, the share of the LR latent in the mean: float64 [1000], 1 from t = 500 on."""
    position = torch.linspace(0.001, 0.999, START + 1, dtype=torch.float64)
    rising = (1 - torch.cos(math.pi * position)) / 2
    return torch.cat([rising, torch.ones(START + 1, dtype=torch.float64)])


def shift_timesteps(steps: int) -> tuple[int, ...]:
    """The timesteps of `steps` calls and 0 behind them, descending."""
    return tuple(round(k * START / steps) for k in range(steps, -1, -1))


@dataclass(frozen=True)
class Place:
    """Where a timestep stands in the schedule, float64.

    Attributes:
        alpha_bar: abar_t.
        share: eta_t.
    """

    alpha_bar: float
    share: float

    @property
    def scale(self) -> float:
        """A, the scale of the clean latent in the mean."""
        return math.sqrt(self.alpha_bar) * (1 - self.share)

    @property
    def ratio(self) -> float:
        """l, the noise by that scale."""
        return math.sqrt(1 - self.alpha_bar) / self.scale


def shift_solver(steps: int = 5, order: int = 3) -> LinearSteps:
    """The chain from the noised latent of the LR image.

    Args:
        steps: Calls of the network, from 1.
        order: 1, 2 or 3. The first step has order 1, and the second at most 2.

    Raises:
        UserError: `steps` or `order` is out of range.
    """
    if not 1 <= steps <= START:
        raise UserError(f"steps: {steps} is out of range; choose from 1 to {START}")
    if order not in ORDERS:
        raise UserError(f"order: {order} is unknown; choose 1, 2 or 3")
    bars = alphas_cumprod(dtype=torch.float64)
    etas = shares()
    timesteps = shift_timesteps(steps)
    places = [Place(bars[t].item(), etas[t].item()) for t in timesteps]
    rows = []
    for step in range(steps):
        factors = _step(places, step, min(order, step + 1))
        rows.append(Row(timesteps[step], factors))
    names = ("latent", *(noise(draw) for draw in range(steps + 1)))
    first = places[0].alpha_bar
    begin = first_state("lr", first)
    ladder = ShiftLadder(timesteps[:-1], tuple(places), order, begin)
    return LinearSteps(begin, tuple(rows), names, PERIOD, clean(first), ladder)


@dataclass(frozen=True)
class ShiftLadder:
    """The solver with steps left out: its order counts the places that were visited.

    Attributes:
        timesteps: What the networks are told at each place.
        stands: Where the places stand in the schedule, and the end, whose state is decoded as it
            is.
        order: The solver's, from the third visited place on.
        start: The factors of the first state.
    """

    timesteps: tuple[int, ...]
    stands: tuple[Place, ...]
    order: int
    start: Factors

    @property
    def places(self) -> int:
        """Steps of the whole chain."""
        return len(self.timesteps)

    @property
    def memory(self) -> int:
        """Visited places that a skip depends on."""
        return self.order

    def clean_of(self, place: int) -> Factors:
        """The factors of x0 over the state and the prediction at a place."""
        return clean(self.stands[place].alpha_bar)

    def onward(self, path: tuple[int, ...]) -> Factors:
        """See `compress.process.contract.Ladder`."""
        step = len(path) - 2
        visited = [self.stands[place] for place in path]
        factors = _step(visited, step, min(self.order, step + 1))
        factors[noise(path[-1])] = factors.pop(noise(step + 1))
        return factors


def _step(places: Sequence[Place], step: int, order: int) -> dict[str, float]:
    """The factors of the state after a step."""
    here, there = places[step], places[step + 1]
    shrink = (there.ratio / here.ratio) ** 2
    shifted = there.share / (1 - there.share) - shrink * here.share / (1 - here.share)
    of_clean = _of_clean(places, step, order)
    factors = {
        STATE: there.scale / here.scale * shrink,
        PREDICTION: 0.0,
        "latent": there.scale * shifted,
        noise(step + 1): there.scale * there.ratio * math.sqrt(1 - shrink),
    }
    for back, factor in enumerate(of_clean):
        of = places[step - back].alpha_bar
        state, prediction = _names(step, back)
        signal = math.sqrt(of)
        factors[state] = factors.get(state, 0.0) + factor / signal
        noise_gain = math.sqrt(1 - of) / signal
        factors[prediction] = factors.get(prediction, 0.0) - factor * noise_gain
    return factors


def _names(step: int, back: int) -> tuple[str, str]:
    """The names of the state and the prediction `back` steps before a step."""
    if back == 0:
        return STATE, PREDICTION
    return f"{STATE}_{step - back}", f"{PREDICTION}_{step - back}"


def _of_clean(places: Sequence[Place], step: int, order: int) -> list[float]:
    """The factors of x0 of this step, of the one before it, and of the one before that."""
    there = places[step + 1]
    scale, target = there.scale, there.ratio
    ratios = [places[step - back].ratio for back in range(order)]
    here = ratios[0]
    factors = [scale * (1 - (target / here) ** 2)]
    if order == 1:
        return factors
    # D1 = (x0 - x0_before) / (l - l_before)
    slope = -scale * (target - here) ** 2 / here
    first = _slope(ratios[0], ratios[1])
    factors = _added(factors, first, slope)
    if order == 2:
        return factors
    # D2 = 2 (D1 - D1_before) / (l - l_before_that)
    bend = (here - 3 * target) * (here - target) / 2 - target**2 * math.log(target / here)
    before = [0.0, *_slope(ratios[1], ratios[2])]
    curve = [
        2 * (now - then) / (ratios[0] - ratios[2])
        for now, then in zip([*first, 0.0], before, strict=True)
    ]
    return _added(factors, curve, scale * bend)


def _slope(here: float, before: float) -> list[float]:
    """The factors of two x0 in their difference by the difference of l."""
    return [1 / (here - before), -1 / (here - before)]


def _added(factors: Sequence[float], more: Sequence[float], scale: float) -> list[float]:
    """The sum of `factors` and `scale` times `more`, of which there are at least as many."""
    padded = [*factors, *[0.0] * (len(more) - len(factors))]
    return [factor + scale * other for factor, other in zip(padded, more, strict=True)]
