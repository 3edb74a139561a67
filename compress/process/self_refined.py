"""AddSR's prediction-based self-refinement (arXiv 2404.01717), between the steps of a chain.

From the second step on, the networks see what the decoder makes of the step before, blended with
the enlarged input:

    condition = weight * decoded + (1 - weight) * enlarged input

The hint of the control network and the image tokens are made of it anew.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F

from compress.process.codebook import clean
from compress.process.contract import Ladder, Steps
from compress.process.epsilon_chains import renoised
from compress.process.linear_steps import PREDICTION, STATE, LinearSteps, weighted_sum
from compress.process.noise import PERIOD
from compress.process.one_step import alphas_cumprod

CONDITION, HINT, TOKENS = "condition", "hint", "image_tokens"


@dataclass(frozen=True)
class SelfRefined:
    """A chain that noises its clean latent anew, with refinement between its steps.

    Its model has the components `decoder`, `hint` (image -> hint of the control network) and
    `tokens` (image of `tokens_side` -> tokens), and the value `condition`, the enlarged input
    float [B, 3, 4h, 4w] in [0, 1].

    Attributes:
        timesteps: Descending, from 0 to 999, at least two.
        weight: Share of the decoded image in the condition.
        tokens_side: Height and width of the image that tokens are made of.
        start: `lr` or `noise`, see `compress.process.epsilon_chains.first_state`.
    """

    adaptive: ClassVar[bool] = False  # the number of steps is the same for every image
    factors: ClassVar[None] = None  # there is more than one step
    period: ClassVar[int] = PERIOD

    timesteps: tuple[int, ...]
    weight: float = 0.4
    tokens_side: int = 384
    start: str = "lr"

    chain: LinearSteps = field(init=False)  # the steps without refinement
    _clean: tuple[dict[str, float], ...] = field(init=False)  # the clean latent of each step

    def __post_init__(self) -> None:
        # Once, as numbers: reading them off a tensor would stop torch.export.
        bars = alphas_cumprod()
        found = tuple(clean(bars[timestep].item()) for timestep in self.timesteps)
        object.__setattr__(self, "chain", renoised(self.timesteps, self.start))
        object.__setattr__(self, "_clean", found)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The values that it reads: those of the chain, and the condition."""
        return (*self.chain.inputs, CONDITION)

    @property
    def steps(self) -> int:
        """How often the components of a step are called."""
        return len(self.timesteps)

    @property
    def ladder(self) -> Ladder | None:
        """The chain, of which steps may be left out; `between` is called between those taken."""
        return self.chain.ladder

    def first_step(self) -> LinearSteps | None:
        """See `LinearSteps.first_step`; one step is not refined."""
        return self.chain.first_step()

    def restore(self, latent: torch.Tensor, steps: Steps, *others: torch.Tensor) -> torch.Tensor:
        """The clean latent [B, C, h, w]; arguments are those of a process' `restore`."""
        *noises, enlarged = others
        chain = self.chain
        values = dict(zip(chain.inputs, (latent, *noises), strict=True))
        state = weighted_sum(chain.start, values)
        refined: dict[str, torch.Tensor] = {}
        for row, factors in zip(chain.rows, self._clean, strict=True):
            told = latent.new_full((len(latent),), row.timestep, dtype=torch.int64)
            prediction = steps(state, told, **refined)
            values |= {STATE: state, PREDICTION: prediction}
            if row is not chain.rows[-1]:
                refined = self.between(weighted_sum(factors, values), enlarged, steps)
            state = weighted_sum(row.factors, values)
        return state

    def between(
        self, clean_latent: torch.Tensor, enlarged: torch.Tensor, steps: Steps
    ) -> dict[str, torch.Tensor]:
        """What the next step sees of the clean latent that one step tells."""
        decoded = steps.call("decoder", clean_latent)
        condition = self.weight * decoded.clamp(0, 1) + (1 - self.weight) * enlarged
        side = (self.tokens_side, self.tokens_side)
        # Not clamped: the authors do not.
        small = F.interpolate(condition, side, mode="bicubic", align_corners=False)
        return {HINT: steps.call("hint", condition), TOKENS: steps.call("tokens", small)}
