"""Steps whose states are weighted sums of named values.

    state_0     = sum of start[v] * v             over the values that the process reads
    state_{i+1} = sum of rows[i].factors[v] * v   over the same, the states and the predictions

Values of a step are `state` and `prediction`; those of an earlier one are `state_0`, `prediction_0`
and so on. So Euler's and DDIM's steps, samplers that add noise again and multistep solvers are all
settings of it: noise is one of the values that the process reads. The last state is the clean
latent.

Between two steps components may be called on the clean latent that the first of them tells, and
the next step reads what they make in the place of other values.

All of it is data: what exports a model hands it to a host program, which then makes the same calls
and sums.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch

from compress.process.contract import Ladder

STATE, PREDICTION = "state", "prediction"  # of the step; with `_0` and so on, of an earlier one
CLEAN = "clean"  # the clean latent that a step alone tells, for the calls behind it
Factors = Mapping[str, float]  # of a weighted sum, by the names of its values


@dataclass(frozen=True)
class Row:
    """One step.

    Attributes:
        timestep: What the components of the step are told.
        factors: Of the next state: those of the states and predictions so far, and of what the
            process reads.
        instead: What the components of the step read in the place of other values, by the names of
            these, such as `negative_context` for `context`.
    """

    timestep: int
    factors: Factors
    instead: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Between:
    """A call of a component between two steps.

    Attributes:
        component: Its name.
        inputs: The values that are its arguments, in their order: `clean`, those that the process
            reads, and those that calls before it make.
        outputs: The values that it makes.
    """

    component: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


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
        period: Pixels of the latent after which its noise repeats itself; 1 without noise.
        first_clean: The factors of the clean latent that the first step alone tells, over `state`
            and `prediction`; None where that is not known.
        ladder: The same chain, of which steps may be left out; None where that is not known.
        scalable: The values of noise that may be turned down, as the networks bear it.
        between: What is called between any two steps, in running order.

    Raises:
        ValueError: Something is called between steps, and no ladder says the clean latent.
    """

    adaptive: ClassVar[bool] = False  # the number of steps is the same for every image

    start: Factors
    rows: tuple[Row, ...]
    inputs: tuple[str, ...] = ("latent",)
    period: int = 1
    first_clean: Factors | None = None
    ladder: Ladder | None = None
    scalable: tuple[str, ...] = ()
    between: tuple[Between, ...] = ()

    def __post_init__(self) -> None:
        if self.between and self.ladder is None:
            raise ValueError("calls between steps need a ladder, which tells the clean latent")

    @property
    def steps(self) -> int:
        """How often the components of a step are called."""
        return len(self.rows)

    @property
    def timesteps(self) -> tuple[int, ...]:
        """What the components of each step are told."""
        return tuple(row.timestep for row in self.rows)

    @cached_property
    def remembered(self) -> frozenset[str]:
        """The states and predictions of earlier steps that a later one reads."""
        given = {STATE, PREDICTION, *self.inputs}
        return frozenset(name for row in self.rows for name in row.factors) - given

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

    def with_noise(self, factor: float) -> "LinearSteps | None":
        """The chain with its `scalable` noise times a factor; None where there is none."""
        if not self.scalable:
            return None

        def scaled(factors: Factors) -> dict[str, float]:
            return {n: f * factor if n in self.scalable else f for n, f in factors.items()}

        rows = tuple(replace(row, factors=scaled(row.factors)) for row in self.rows)
        return replace(self, start=scaled(self.start), rows=rows, ladder=None)

    def first_step(self) -> "LinearSteps | None":
        """The chain that ends with what its first step tells; None where that is not known.

        It reads no value that only later steps need.
        """
        if self.first_clean is None:
            return None
        read = {*self.start, *self.first_clean}
        inputs = tuple(name for name in self.inputs if name in read)
        row = Row(self.rows[0].timestep, self.first_clean)
        scalable = tuple(name for name in self.scalable if name in read)
        return LinearSteps(
            self.start, (row,), inputs, self.period, self.first_clean, scalable=scalable
        )

    def restore(
        self,
        latent: torch.Tensor,
        predict: Callable[..., torch.Tensor],
        *more: torch.Tensor,
    ) -> torch.Tensor:
        """The clean latent of `latent` and of the other values that the process reads.

        `predict` maps a state, and for more than one step the timesteps, int64 [B], to a
        prediction. With calls between the steps it has a method `call` as well (`Steps`).
        """
        values = dict(zip(self.inputs, (latent, *more), strict=True))
        state = weighted_sum(self.start, values)
        for step, row in enumerate(self.rows):
            told: tuple[torch.Tensor, ...] = ()
            if self.steps > 1:
                told = (latent.new_full((latent.shape[0],), row.timestep, dtype=torch.int64),)
            others = {name: values[given] for name, given in row.instead.items()}
            prediction = predict(state, *told, **others)
            values |= {STATE: state, PREDICTION: prediction}
            for name in self.remembered & {f"{STATE}_{step}", f"{PREDICTION}_{step}"}:
                values[name] = values[name.rpartition("_")[0]]
            if self.between and self.ladder is not None and step + 1 < self.steps:
                clean = weighted_sum(self.ladder.clean_of(step), values)
                values |= self.look_again(clean, values, predict)
            state = weighted_sum(row.factors, values)
        return state

    def look_again(
        self, clean: torch.Tensor, values: Mapping[str, torch.Tensor], steps: Any
    ) -> dict[str, torch.Tensor]:
        """What the calls between two steps make, by name.

        Args:
            clean: The clean latent that the step before tells, [B, C, h, w].
            values: What the process reads.
            steps: What it may call, `compress.process.contract.Steps`.
        """
        known = {**values, CLEAN: clean}
        made: dict[str, torch.Tensor] = {}
        for call in self.between:
            result = steps.call(call.component, *(known[name] for name in call.inputs))
            outputs = (result,) if len(call.outputs) == 1 else result
            made |= dict(zip(call.outputs, outputs, strict=True))
            known |= made
        return made
