"""One step of flow matching: the clean latent from one velocity.

With z_t = sigma * noise + (1 - sigma) * z0 the velocity is noise - z0, so z0 = z_t - sigma * v
(arXiv 2209.03003). TSD-SR (arXiv 2411.18263) shows its network the latent of the enlarged image at
sigma = 1 and trains it until z0 = z - v holds. Both gains are 1 there, where OSEDiff's are 14.6: an
error of the network is not amplified.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

TIMESTEPS = 1000  # sigma = 1 is timestep 1000


@dataclass(frozen=True)
class VelocityStep:
    """The process of a one-step model whose network predicts a velocity.

    Attributes:
        sigma: The share of noise at which the network is told to be, in (0, 1].
    """

    inputs: ClassVar[tuple[str, ...]] = ("latent",)  # the values that it reads
    period: ClassVar[int] = 1  # pixels of the latent after which it repeats itself
    adaptive: ClassVar[bool] = False  # the number of steps is the same for every image

    sigma: float = 1.0
    steps: int = 1

    @property
    def timestep(self) -> float:
        """What the network is told."""
        return TIMESTEPS * self.sigma

    @property
    def factors(self) -> dict[str, float]:
        """The clean latent as a weighted sum of the latent and the prediction."""
        return {"latent": 1.0, "prediction": -self.sigma}

    def clean_latent(self, latent: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """z0 from `latent` and the velocity `prediction`, both [B, C, h, w].

        It is computed in float32 or better.
        """
        dtype = torch.promote_types(latent.dtype, torch.float32)
        velocity = prediction.to(dtype)
        if self.sigma != 1:
            velocity = velocity * self.sigma
        return latent.to(dtype) - velocity

    def restore(
        self, latent: torch.Tensor, predict: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """The clean latent from `latent` and the velocity that `predict` sees in it."""
        return self.clean_latent(latent, predict(latent))

    def prediction_for(self, latent: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """The velocity that `clean_latent` turns into `clean`: its inverse, a training target."""
        return (latent - clean) / self.sigma
