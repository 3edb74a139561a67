"""Residual shifting as the process of an SRModel: ResShift's and SinSR's samplers.

The latent has two halves of C channels, y and the low-resolution image in [-1, 1]. The denoiser
sees the state after the input normaliser in the place of y.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import nn

from compress.core.errors import UserError
from compress.process.ladder import draw_of
from compress.process.linear_steps import PREDICTION, STATE
from compress.process.noise import repeated
from compress.process.residual_shift import ResidualShift

Sampler = Literal["one_step", "deterministic", "stochastic"]
SAMPLERS = get_args(Sampler)
PERIOD, SEED = 64, 0
SHIFT = (27, 37)  # rows and columns from one step's noise to the next; odd: none of PERIOD is alike


class ResidualSampler(nn.Module):
    """`one_step` is SinSR's student, `deterministic` its teacher, `stochastic` ResShift.

    The noise is a fixed map of PERIOD pixels a side, repeated over the whole latent, so that a
    result depends neither on a random state nor on tiles. The draws of later steps are the same
    map, shifted.

    Args:
        schedule: Its steps and weights.
        sampler: One of SAMPLERS.
        channels: C.

    Raises:
        UserError: The sampler is unknown.
    """

    inputs = ("latent",)  # the values that it reads
    period = PERIOD  # pixels of the latent after which it repeats itself
    adaptive = False  # the number of steps is the same for every image
    noise: torch.Tensor

    def __init__(self, schedule: ResidualShift, sampler: Sampler, channels: int = 3):
        super().__init__()
        if sampler not in SAMPLERS:
            raise UserError(f"sampler '{sampler}' is unknown; choose one of {', '.join(SAMPLERS)}")
        self.schedule = schedule
        self.sampler = sampler
        self.channels = channels
        self.register_buffer("noise", torch.empty(1, channels, PERIOD, PERIOD))

    def reset_parameters(self) -> None:
        """Draw the noise, on the CPU."""
        self.noise = torch.randn(self.noise.shape, generator=torch.Generator().manual_seed(SEED))

    @property
    def steps(self) -> int:
        """How often the denoiser is called."""
        return 1 if self.sampler == "one_step" else self.schedule.steps

    @property
    def factors(self) -> dict[str, float] | None:
        """The clean latent as a weighted sum of what is read and the prediction, for one step."""
        return {"latent": 0.0, "prediction": 1.0} if self.steps == 1 else None

    def draws(self, like: torch.Tensor) -> Iterator[torch.Tensor]:
        """Noise [1, C, h, w] for a map [B, C, h, w], of one step after the other."""
        for step in range(self.schedule.steps):
            top = SHIFT[0] * step
            left = SHIFT[1] * step
            yield repeated(self.noise.to(like.dtype), like, top, left)

    def with_noise(self, factor: float) -> "ResidualSampler | None":
        """The sampler with a smaller kappa; the networks are told the noise of the whole one.

        None for `one_step`: its network has learnt one amount of noise, and with less of it the
        nano's images are worse by PSNR and by LPIPS alike.
        """
        if self.sampler == "one_step":
            return None
        made = ResidualSampler(self.schedule, self.sampler, self.channels)
        made.noise = self.noise * factor
        return made

    @property
    def ladder(self) -> "ResidualLadder":
        """The chain, of which steps may be left out; not for `one_step`."""
        return ResidualLadder(self.schedule, self.sampler)

    def named(self, latent: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the ladder's factors are of: y as "latent", and the noise of each draw."""
        y = latent[:, : self.channels]
        return {"latent": y, **{draw_of(i): draw for i, draw in enumerate(self.draws(y))}}

    def shown(self, state: torch.Tensor, latent: torch.Tensor, place: int) -> torch.Tensor:
        """What the denoiser sees of a state [B, C, h, w] at a place: [B, 2C, h, w]."""
        seen = self.schedule.network_input(state, self.schedule.last - place)
        return torch.cat([seen, latent[:, self.channels :]], dim=1)

    def restore(self, latent: torch.Tensor, predict: Callable[..., torch.Tensor]) -> torch.Tensor:
        """The clean latent [B, C, h, w] of `latent` [B, 2C, h, w].

        `predict` maps such a pair of state and image, and for more than one step the timesteps,
        int64 [B], to x0.
        """
        y, image = latent.split(self.channels, dim=1)

        def denoise_once(x: torch.Tensor, _timesteps: torch.Tensor) -> torch.Tensor:
            return predict(torch.cat([x, image], dim=1))

        def denoise(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            return predict(torch.cat([x, image], dim=1), timesteps)

        if self.sampler == "one_step":
            return self.schedule.one_step(denoise_once, y, next(self.draws(y)))
        if self.sampler == "deterministic":
            chain = self.schedule.deterministic(denoise, y, next(self.draws(y)))
        else:
            chain = self.schedule.stochastic(denoise, y, self.draws(y))
        state = y
        for state, _ in chain:  # noqa: B007  the last state is the result
            pass
        return state


@dataclass(frozen=True)
class ResidualLadder:
    """Residual shifting with steps left out: its posterior holds between any two of them.

    Attributes:
        schedule: Its steps and weights.
        sampler: `deterministic` or `stochastic`.
    """

    schedule: ResidualShift
    sampler: Sampler
    memory: ClassVar[int] = 1  # visited places that a skip depends on

    @property
    def places(self) -> int:
        """Steps of the whole chain."""
        return self.schedule.steps

    @property
    def timesteps(self) -> tuple[int, ...]:
        """What the denoiser is told at each place."""
        return self.schedule.timesteps[::-1]

    @property
    def start(self) -> dict[str, float]:
        """The factors of the first state."""
        return {"latent": 1.0, draw_of(0): self.schedule.prior_std}

    def clean_of(self, place: int) -> dict[str, float]:
        """The network predicts x0, at every place."""
        return {PREDICTION: 1.0}

    def onward(self, path: tuple[int, ...]) -> dict[str, float]:
        """See `compress.process.contract.Ladder`."""
        here, there = (self.schedule.last - place for place in path[-2:])
        if self.sampler == "deterministic":
            of_clean, of_state, of_latent = self.schedule.deterministic_weights(here, there)
            return {PREDICTION: of_clean, STATE: of_state, "latent": of_latent}
        of_state, of_clean, variance = self.schedule.posterior(here, there)
        factors = {PREDICTION: of_clean, STATE: of_state}
        if variance:
            factors[draw_of(path[-1])] = math.sqrt(variance)
        return factors
