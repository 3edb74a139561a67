"""Residual shifting: diffusion between a clean latent and a low-resolution one.

    x_t = (1 - eta_t) x0 + eta_t y + kappa sqrt(eta_t) eps        (ResShift, eq. 2)

ResShift is arXiv 2307.12348; its deterministic and one-step forms are SinSR's, arXiv 2311.14760. x0
is the clean latent, y that of the upsampled low-resolution image, eps standard normal; the network
predicts x0. Step t = 0 .. T-1 is an index into the tables; the network is told `timesteps[t]`.
Tables are float64, latents keep their type.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from compress.core.errors import UserError

# The network: (state after the input normaliser [B, C, h, w], timestep int64 [B]) -> x0 [B, C, h,
# w].
Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# The state after a step, and the x0 that the step was made with.
State = tuple[torch.Tensor, torch.Tensor]

CAP = math.sqrt(0.001)


@dataclass(frozen=True)
class ResidualShift:
    """The process.

    Attributes:
        sqrt_etas: sqrt(eta_t), rising from near 0 to near 1.
        kappa: The strength of the noise.
        timesteps: What the network is told at each step; left out for 0 .. T-1.
    """

    sqrt_etas: tuple[float, ...]
    kappa: float = 2.0
    timesteps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.timesteps:
            object.__setattr__(self, "timesteps", tuple(range(self.steps)))

    @classmethod
    def exponential(
        cls,
        steps: int,
        min_noise: float,
        kappa: float = 2.0,
        power: float = 0.3,
        end: float = 0.99,
        capped: bool = False,
    ) -> "ResidualShift":
        """ResShift's schedule: sqrt(eta_t) = s (end / s)^((t / (T-1))^power).

        Here s = min(min_noise / kappa, min_noise).

        Args:
            steps: T.
            min_noise: Of the first step.
            kappa: The strength of the noise.
            power: See above.
            end: sqrt(eta) of the last step.
            capped: Take s no larger than sqrt(0.001), as SinSR's code does. It changes nothing at
                15 steps and gives another schedule than ResShift's at 4.

        Raises:
            UserError: There are fewer than two steps.
        """
        if steps < 2:
            raise UserError(
                f"residual shift: a schedule of {steps} steps has no two ends; choose at least 2"
            )
        start = min(min_noise / kappa, min_noise)
        if capped:
            start = min(start, CAP)
        roots = [start * (end / start) ** ((t / (steps - 1)) ** power) for t in range(steps)]
        return cls(tuple(roots), kappa)

    @classmethod
    def v1(cls, capped: bool = False) -> "ResidualShift":
        """The 15 steps of ResShift v1 and v2, SinSR and BiMaCoSR."""
        return cls.exponential(15, 0.04, capped=capped)

    @classmethod
    def v3(cls, capped: bool = False) -> "ResidualShift":
        """The 4 steps of ResShift v3 (the journal version)."""
        return cls.exponential(4, 0.2, capped=capped)

    def respaced(self, steps: int) -> "ResidualShift":
        """Only `steps` of the steps.

        The last one is dropped, as in the authors' code: the chain starts at less noise.

        Raises:
            UserError: Unless 1 <= steps <= T.
        """
        if not 1 <= steps <= self.steps:
            raise UserError(
                f"residual shift: cannot respace {self.steps} steps to {steps}; "
                f"choose 1 to {self.steps}"
            )
        kept = [int(self.steps / steps * i) for i in range(steps)]
        return ResidualShift(
            tuple(self.sqrt_etas[t] for t in kept),
            self.kappa,
            tuple(self.timesteps[t] for t in kept),
        )

    @property
    def steps(self) -> int:
        """T."""
        return len(self.sqrt_etas)

    @property
    def last(self) -> int:
        """The step with the most noise, where sampling starts."""
        return self.steps - 1

    def eta(self, t: int) -> float:
        """eta_t; 0 before the first step (t = -1)."""
        if t >= 0:
            return self.sqrt_etas[t] ** 2
        return 0.0

    @property
    def prior_std(self) -> float:
        """Standard deviation of the noise that sampling starts with."""
        return self.kappa * self.sqrt_etas[-1]

    def normaliser(self, t: int) -> float:
        """What the network's input is divided by.

        It is the standard deviation of x_t if that of the latent is 1.
        """
        return math.sqrt(self.eta(t) * self.kappa**2 + 1)

    def posterior(self, t: int, s: int | None = None) -> tuple[float, float, float]:
        """(weight of x_t, weight of x0, variance) of x_s given both (ResShift).

        Args:
            t: The step.
            s: The earlier step, -1 for the clean latent; t - 1 where it is left out.
        """
        earlier = self.eta(t - 1 if s is None else s)
        kept = earlier / self.eta(t)
        return kept, 1 - kept, self.kappa**2 * kept * (self.eta(t) - earlier)

    def deterministic_weights(self, t: int, s: int | None = None) -> tuple[float, float, float]:
        """(k, m, j) of x_s = k x0 + m x_t + j y, with the same noise in both states (SinSR).

        They are (1, 0, 0) at s = -1. Arguments are those of `posterior`.
        """
        before = self.eta(t - 1 if s is None else s)
        mixed = math.sqrt(before * self.eta(t))
        m = math.sqrt(before / self.eta(t))
        return 1 - before + mixed - m, m, before - mixed

    def diffuse(
        self, x0: torch.Tensor, y: torch.Tensor, noise: torch.Tensor, t: int
    ) -> torch.Tensor:
        """x_t of a clean latent; all [B, C, h, w]."""
        return (1 - self.eta(t)) * x0 + self.eta(t) * y + self.kappa * self.sqrt_etas[t] * noise

    def start(self, y: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The first state of sampling: x_T with y in the place of the unknown x0."""
        return y + self.prior_std * noise

    def network_input(self, x: torch.Tensor, t: int) -> torch.Tensor:
        """What the network sees of the state x_t. The state itself stays as it is."""
        return x / self.normaliser(t)

    def predict(self, denoise: Denoiser, x: torch.Tensor, t: int) -> torch.Tensor:
        """x0 by the network, from x at step t."""
        number = torch.full((x.shape[0],), self.timesteps[t], dtype=torch.int64, device=x.device)
        return denoise(self.network_input(x, t), number)

    def stochastic_step(
        self, x: torch.Tensor, x0: torch.Tensor, noise: torch.Tensor | None, t: int
    ) -> torch.Tensor:
        """x_{t-1}, drawn from the posterior; at t = 0 there is no noise, and `noise` may be None.

        Raises:
            ValueError: It is None elsewhere.
        """
        of_x, of_x0, variance = self.posterior(t)
        mean = of_x * x + of_x0 * x0
        if t == 0:
            return mean
        if noise is None:
            raise ValueError(f"step {t} of the posterior needs noise")
        return mean + math.sqrt(variance) * noise

    def deterministic_step(
        self, x: torch.Tensor, x0: torch.Tensor, y: torch.Tensor, t: int
    ) -> torch.Tensor:
        """x_{t-1} with the noise that x_t holds."""
        k, m, j = self.deterministic_weights(t)
        return k * x0 + m * x + j * y

    def inverse_step(
        self, x: torch.Tensor, x0: torch.Tensor, y: torch.Tensor, t: int
    ) -> torch.Tensor:
        """x_t from x_{t-1}: undoes `deterministic_step` for the same x0.

        Raises:
            UserError: At t = 0, where it cannot.
        """
        k, m, j = self.deterministic_weights(t)
        if m == 0:
            raise UserError(
                "residual shift: step 0 forgets its input and cannot be inverted; start at step 1"
            )
        return (x - k * x0 - j * y) / m

    def stochastic(
        self, denoise: Denoiser, y: torch.Tensor, noise: Iterable[torch.Tensor]
    ) -> Iterator[State]:
        """ResShift's sampler.

        Args:
            denoise: The network.
            y: [B, C, h, w].
            noise: Gives [B, C, h, w] T times: for the first state, then for every step but the
                last.

        Yields:
            (x_{t-1}, x0) after each step t = T-1 .. 0; the last state is the clean latent.
        """
        draws = iter(noise)
        x = self.start(y, next(draws))
        for t in range(self.last, -1, -1):
            x0 = self.predict(denoise, x, t)
            x = self.stochastic_step(x, x0, next(draws) if t else None, t)
            yield x, x0

    def deterministic(
        self, denoise: Denoiser, y: torch.Tensor, noise: torch.Tensor
    ) -> Iterator[State]:
        """SinSR's teacher: (x_{t-1}, x0) after each step t = T-1 .. 0.

        All noise comes from the first state.
        """
        x = self.start(y, noise)
        for t in range(self.last, -1, -1):
            x0 = self.predict(denoise, x, t)
            x = self.deterministic_step(x, x0, y, t)
            yield x, x0

    def one_step(self, denoise: Denoiser, y: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """SinSR's student: the prediction from the first state is the clean latent."""
        return self.predict(denoise, self.start(y, noise), self.last)

    def inverse(self, denoise: Denoiser, clean: torch.Tensor, y: torch.Tensor) -> Iterator[State]:
        """(x_t, x0) for t = 1 .. T-1, from the clean latent towards the noise it would come from.

        The network sees x_{t-1} at step t, as in the authors' code; so `deterministic` does not
        lead back exactly.
        """
        x = clean
        for t in range(1, self.steps):
            x0 = self.predict(denoise, x, t)
            x = self.inverse_step(x, x0, y, t)
            yield x, x0
