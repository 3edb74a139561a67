"""Bidirectional conditioning of Edge-SD-SR (CVPR 2025).

The low-resolution image shapes both directions of diffusion. [KNOWN] from abstract and survey:
bidirectional conditioning, variance conditioning, a noise schedule of its own. [REC] our
reconstruction, with mu_L and sigma_L from the encoder of the LR image and z_0 the clean latent:

    forward   z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) (mu_L + sigma_L eps)
    terminal  z_T = mu_L + sigma_L eps
    reverse   z_0 ~ f_theta([z_t, mu_L], t)

Ours: the schedule, abar_t = cos^2(pi/2 (t + 1)/T) for t = 0 ... T - 1, without the usual rest at
its
end: abar = 0 at t = T - 1, so that the state of the last step is the terminal one and holds nothing
of the HR image.
"""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn

from compress.core.errors import UserError
from compress.process.noise import repeated

STEPS = 1000  # T
PERIOD, SEED = 16, 0


class Bidirectional(nn.Module):
    """One step from z_T, and the forward process for training.

    Latents have C channels. What `restore` and the encoder hand over is [mu_L, log sigma_L^2], 2C
    channels.

    At inference eps is a fixed map of PERIOD pixels a side, repeated over the latent: f_theta meets
    the states that it was trained on, where eps = 0 would be a state that it never saw. The result
    depends on no random state, the graph exports, and tiles agree wherever their origins differ by
    multiples of PERIOD latent pixels, even if each is a run of its own: 128 px tiles at a stride of
    96 px are 48 latent pixels apart. SRModel adds the noise before it tiles.

    Args:
        channels: C.
        mean: For ablation False drops mu_L from the forward process and from z_T; f_theta still
            sees it beside the state.
        variance: For ablation False sets sigma_L to 1. Without both the forward process is the
            usual one, which knows nothing of the LR image.
        sigma_min: sigma_L is clamped to [sigma_min, 1]: joint training drives it to 0 otherwise.

    Raises:
        UserError: `sigma_min` is not in (0, 1].
    """

    steps = 1
    inputs = ("latent",)  # the values that it reads
    period = PERIOD  # pixels of the latent after which it repeats itself
    adaptive = False  # the number of steps is the same for every image
    # The clean latent as a weighted sum of what is read, and of the prediction.
    factors: ClassVar[dict[str, float]] = {"latent": 0.0, "prediction": 1.0}
    noise: torch.Tensor

    def __init__(
        self, channels: int = 4, mean: bool = True, variance: bool = True, sigma_min: float = 0.05
    ):
        super().__init__()
        if not 0 < sigma_min <= 1:
            raise UserError(
                f"sigma_min {sigma_min} is out of range; "
                "choose a standard deviation above 0 and up to 1"
            )
        self.channels = channels
        self.mean = mean
        self.variance = variance
        self.sigma_min = sigma_min
        self.register_buffer("noise", torch.empty(1, channels, PERIOD, PERIOD))

    def reset_parameters(self) -> None:
        """Draw the noise, on the CPU."""
        self.noise = torch.randn(self.noise.shape, generator=torch.Generator().manual_seed(SEED))

    @property
    def timestep(self) -> int:
        """The last step, where abar is 0."""
        return STEPS - 1

    def rates(self, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t) of timesteps int [B] in [0, T).

        Both are float32 [B, 1, 1, 1].
        """
        angle = (math.pi / 2) * (timesteps.float() + 1) / STEPS
        signal = torch.where(timesteps >= STEPS - 1, torch.zeros_like(angle), angle.cos())
        return signal.view(-1, 1, 1, 1), (1 - signal**2).sqrt().view(-1, 1, 1, 1)

    def moments(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """mu_L and the clamped sigma_L, each [B, C, h, w], of an encoder's [B, 2C, h, w]."""
        mean, log_variance = latent.split(self.channels, dim=1)
        return mean, (0.5 * log_variance).clamp(math.log(self.sigma_min), 0.0).exp()

    def terminal(self, latent: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """z_T [B, C, h, w] from the encoder's [B, 2C, h, w] and eps, [1 or B, C, h, w]."""
        mean, sigma = self.moments(latent)
        spread = sigma * noise if self.variance else noise.expand_as(mean)
        if self.mean:
            return mean + spread
        return spread

    def diffuse(
        self,
        clean: torch.Tensor,
        latent: torch.Tensor,
        timesteps: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        """z_t [B, C, h, w] of the clean latent [B, C, h, w] at timesteps int [B]."""
        signal, rest = self.rates(timesteps)
        return signal * clean + rest * self.terminal(latent, noise)

    def pair(self, state: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        """[z_t, mu_L], what f_theta sees: [B, 2C, h, w]."""
        return torch.cat([state, latent[:, : self.channels]], dim=1)

    def draw(self, like: torch.Tensor) -> torch.Tensor:
        """eps [1, C, h, w] of inference for a map [B, _, h, w]."""
        return repeated(self.noise.to(like.dtype), like)

    def restore(self, latent: torch.Tensor, predict: Callable[..., torch.Tensor]) -> torch.Tensor:
        """The clean latent [B, C, h, w] from the encoder's [B, 2C, h, w].

        `predict` maps such a pair to it.
        """
        return predict(self.pair(self.terminal(latent, self.draw(latent)), latent))
