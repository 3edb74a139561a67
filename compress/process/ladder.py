"""Chains whose steps may be left out: from any place to any later one, by weighted sums.

A ladder has `places` steps. At place i = 0 .. places - 1 the networks are called; the place of the
number `places` is the end, the clean latent. A walk that visits all places is the chain itself, to
the last bit of its noise: the draw of a place is used on arriving there, whatever lies between.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from compress.process.codebook import Skip, clean
from compress.process.linear_steps import PREDICTION, STATE, Factors
from compress.process.noise import DRAW

Rule = Literal["ddpm", "ddim", "renoise"]


def draw_of(place: int) -> str:
    """The name of the noise with which a state arrives at a place."""
    return f"{DRAW}{place}"


@dataclass(frozen=True)
class EpsilonLadder:
    """A chain of a network that predicts noise.

    Attributes:
        timesteps: What the networks are told at each place.
        alpha_bars: abar_t at each place.
        start: The factors of the first state.
        rule: Of a skip: DDPM's posterior, DDIM, or the clean latent noised afresh.
        jump: Whether the first step noises the clean latent afresh, whatever the rule (CCSR).
        end: abar behind the last step, where the rule is DDIM; 1 for the clean latent.
    """

    timesteps: tuple[int, ...]
    alpha_bars: tuple[float, ...]
    start: Factors
    rule: Rule
    jump: bool = False
    end: float = 1.0
    memory: ClassVar[int] = 1  # visited places that a skip depends on

    @property
    def places(self) -> int:
        """Steps of the chain."""
        return len(self.timesteps)

    def clean_of(self, place: int) -> Factors:
        """The factors of x0 over the state and the prediction at a place."""
        return clean(self.alpha_bars[place])

    def onward(self, path: tuple[int, ...]) -> Factors:
        """The factors of the state at the last of `path`, from the place before it."""
        here, there = path[-2:]
        bar = self.alpha_bars[here]
        is_end = there == self.places
        if is_end and self.end == 1:
            return clean(bar)
        earlier = self.end if is_end else self.alpha_bars[there]
        timestep = -1 if is_end else self.timesteps[there]
        step = Skip(self.timesteps[here], timestep, bar, earlier)
        if self.rule == "renoise" or (self.jump and here == 0):
            return {**clean(bar, step.ddim[0]), draw_of(there): step.ddim[1]}
        if self.rule == "ddim":
            factors = clean(bar, step.ddim[0])
            factors[PREDICTION] += step.ddim[1]
            return factors
        of_clean, of_state, variance = step.ddpm
        factors = clean(bar, of_clean)
        factors[STATE] += of_state
        return {**factors, draw_of(there): math.sqrt(variance)}
