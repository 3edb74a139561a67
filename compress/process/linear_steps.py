"""Steps whose states are weighted sums of named values, as Euler's and DDIM's without noise.

    state_0     = sum of start[v] * v             over the values that the process reads
    state_{i+1} = sum of rows[i].factors[v] * v   over the same, the state and the prediction

The last state is the clean latent. The factors are data: what exports a model hands them to a host
program, which then computes the same sums between the graphs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

STATE, PREDICTION = "state", "prediction"
Factors = Mapping[str, float]  # of a weighted sum, by the names of its values


@dataclass(frozen=True)
class Row:
    """One step.

    Attributes:
        timestep: What the components of the step are told.
        factors: Of the next state: those of `state`, `prediction`, and of what the process reads.
    """

    timestep: int
    factors: Factors


def weighted_sum(factors: Factors, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The sum of factor * value over all factors, in float32 or better.

    Raises:
        ValueError: There are no factors.
    """
    total: torch.Tensor | None = None
    for name, factor in factors.items():
        value = values[name]
        term = factor * value.to(torch.promote_types(value.dtype, torch.float32))
        total = term if total is None else total + term
    if total is None:
        raise ValueError("a sum of no values")
    return total


@dataclass(frozen=True)
class LinearSteps:
    """A process of weighted sums.

    Attributes:
        start: The factors of the first state.
        rows: The steps.
        inputs: Names of the values that the process reads.
        period: Pixels of the latent after which it repeats itself.
    """

    adaptive: ClassVar[bool] = False  # the number of steps is the same for every image

    start: Factors
    rows: tuple[Row, ...]
    inputs: tuple[str, ...] = ("latent",)
    period: int = 1

    @property
    def steps(self) -> int:
        """How often the components of a step are called."""
        return len(self.rows)

    @property
    def factors(self) -> Factors | None:
        """Of one step: the factors of the clean latent over what is read, and the prediction."""
        if self.steps > 1:
            return None
        last = self.rows[0].factors
        of_state = last.get(STATE, 0.0)
        total = {PREDICTION: last.get(PREDICTION, 0.0)}
        for name in self.inputs:
            total[name] = last.get(name, 0.0) + of_state * self.start.get(name, 0.0)
        return total

    def restore(
        self,
        latent: torch.Tensor,
        predict: Callable[..., torch.Tensor],
        *others: torch.Tensor,
    ) -> torch.Tensor:
        """The clean latent of `latent` and of the other values that the process reads.

        `predict` maps a state, and for more than one step the timesteps, int64 [B], to a
        prediction.
        """
        given = dict(zip(self.inputs, (latent, *others), strict=True))
        state = weighted_sum(self.start, given)
        for row in self.rows:
            told: tuple[torch.Tensor, ...] = ()
            if self.steps > 1:
                told = (latent.new_full((latent.shape[0],), row.timestep, dtype=torch.int64),)
            prediction = predict(state, *told)
            state = weighted_sum(row.factors, {**given, STATE: state, PREDICTION: prediction})
        return state
