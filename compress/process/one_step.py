"""One-step epsilon prediction in closed form (OSEDiff, arXiv 2406.08177, eq. 5).

    x0 = (z - sqrt(1 - abar_t) * eps) / sqrt(abar_t)

diffusers' schedulers cannot be used for this: one step from ``set_timesteps(1)`` returns x_{t-1},
not x_0. The two coefficients are applied in float32 or better; at t = 999 they are 14.65 and 14.61,
so an error in `eps` reaches the clean latent about fifteen times larger.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch


def alphas_cumprod(
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    steps: int = 1000,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """abar_t of Stable Diffusion's `scaled_linear` schedule: float64 [steps].

    Args:
        beta_start: The first beta.
        beta_end: The last one.
        steps: How many there are.
        dtype: Of the arithmetic. float32 is diffusers', with whose table most published models were
            trained; the programs that come from LDM's compute in float64.
    """
    ends = math.sqrt(beta_start), math.sqrt(beta_end)
    roots = torch.linspace(*ends, steps, dtype=dtype, device="cpu")
    return torch.cumprod(1.0 - roots**2, dim=0).double()


@dataclass(frozen=True)
class OneStep:
    """The process of a one-step model: the clean latent from one prediction at a fixed timestep."""

    inputs: ClassVar[tuple[str, ...]] = ("latent",)  # the values that it reads
    period: ClassVar[int] = 1  # pixels of the latent after which it repeats itself
    adaptive: ClassVar[bool] = False  # the number of steps is the same for every image

    timestep: int = 999
    steps: int = 1
    alpha_bar: float = field(init=False)

    def __post_init__(self) -> None:
        # Once, as a number: reading it off a tensor would stop torch.export.
        object.__setattr__(self, "alpha_bar", alphas_cumprod()[self.timestep].item())

    @property
    def signal(self) -> float:
        """sqrt(abar_t): the scale of the clean latent inside z_t."""
        return math.sqrt(self.alpha_bar)

    @property
    def noise(self) -> float:
        """sqrt(1 - abar_t): the scale of the noise inside z_t."""
        return math.sqrt(1.0 - self.alpha_bar)

    @property
    def factors(self) -> dict[str, float]:
        """The clean latent as a weighted sum of the latent and the prediction."""
        return {"latent": 1 / self.signal, "prediction": -self.noise / self.signal}

    def clean_latent(self, latent: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """x0 from z_t `latent` and the epsilon `prediction`, both [B, C, h, w].

        It is computed in float32 or better.
        """
        dtype = torch.promote_types(latent.dtype, torch.float32)
        return latent.to(dtype) * (1.0 / self.signal) - prediction.to(dtype) * (
            self.noise / self.signal
        )

    def restore(
        self, latent: torch.Tensor, predict: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """The clean latent from z_t `latent` and the epsilon that `predict` sees in it."""
        return self.clean_latent(latent, predict(latent))

    def prediction_for(self, latent: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """The epsilon that `clean_latent` turns into `clean`: its inverse, the training target."""
        return (latent - self.signal * clean) / self.noise
