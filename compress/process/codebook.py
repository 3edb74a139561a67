"""AdaDiffSR's codebook: the sampling parameters of every skip of an epsilon chain.

With abar_{t|s} = abar_t / abar_s and beta = 1 - abar_{t|s}, a skip from t to s = t - k is

    DDIM   x_s = sqrt(abar_s) x0 + sqrt(1 - abar_s) eps
    DDPM   x_s ~ N(mean, variance), mean = sqrt(abar_s) beta / (1 - abar_t) x0
                                           + sqrt(abar_{t|s}) (1 - abar_s) / (1 - abar_t) x_t,
                                variance = (1 - abar_s) / (1 - abar_t) beta

That there is a codebook, by DDPM or DDIM, is in the paper [doc, arXiv 2410.17752]; the coefficients
are algebra. Below timestep 0 lies the clean latent, abar = 1, where both agree.
"""

import math
from dataclasses import dataclass

import torch

from compress.process.linear_steps import PREDICTION, STATE


@dataclass(frozen=True)
class Skip:
    """The parameters of one skip, float64.

    Attributes:
        t: The timestep before it.
        s: The timestep behind it; -1 for the clean latent.
        alpha_bar_t: abar_t.
        alpha_bar_s: abar_s.
    """

    t: int
    s: int
    alpha_bar_t: float
    alpha_bar_s: float

    @property
    def beta(self) -> float:
        """1 - abar_{t|s}."""
        return 1 - self.alpha_bar_t / self.alpha_bar_s

    @property
    def ddim(self) -> tuple[float, float]:
        """The factors of x0 and of eps."""
        return math.sqrt(self.alpha_bar_s), math.sqrt(1 - self.alpha_bar_s)

    @property
    def ddpm(self) -> tuple[float, float, float]:
        """The factors of x0 and of x_t in the mean, and the variance."""
        rest = 1 - self.alpha_bar_t
        kept = math.sqrt(self.alpha_bar_t / self.alpha_bar_s)
        of_clean = math.sqrt(self.alpha_bar_s) * self.beta / rest
        of_state = kept * (1 - self.alpha_bar_s) / rest
        return of_clean, of_state, (1 - self.alpha_bar_s) / rest * self.beta


def skip(alpha_bars: torch.Tensor, t: int, k: int) -> Skip:
    """The skip of k timesteps from t.

    Args:
        alpha_bars: abar by timestep.
        t: Where it begins.
        k: How many timesteps it passes over; beyond 0 it ends at the clean latent.
    """
    s = max(t - k, -1)
    behind = alpha_bars[s].item() if s >= 0 else 1.0
    return Skip(t, s, alpha_bars[t].item(), behind)


def clean(alpha_bar: float, scale: float = 1.0) -> dict[str, float]:
    """`scale` times the clean latent, as a weighted sum of the state and the prediction.

    Args:
        alpha_bar: abar_t at the step's timestep.
        scale: By which all is multiplied.
    """
    signal = math.sqrt(alpha_bar)
    return {STATE: scale / signal, PREDICTION: -scale * math.sqrt(1 - alpha_bar) / signal}
