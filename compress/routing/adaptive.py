"""A chain of which every tile takes its own steps: AdaDiffSR (arXiv 2410.17752) as a process.

The process wraps the one that a source has. A regressor says after each call what it gained, the
rules of `skipping` say how many steps are left out next or that the tile is done, and the ladder of
the source's process has the coefficients of that skip. Tiles are walked one by one, and their clean
latents are blended with Gaussian weights once, behind the last step [doc]: a blend between the
steps would mix neighbours' noise. Without a regressor all tiles take one path of evenly spread
calls, which is what adaptive walks are measured against.

A router is the same for models of one step: there the steps are paths in the order of their cost.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from compress.model.calls import TIMESTEP, Call
from compress.model.sr_model import SRModel
from compress.process.contract import Ladder, Process, Steps
from compress.process.linear_steps import PREDICTION, STATE, LinearSteps, Row, weighted_sum
from compress.process.walks import Rules, Walk
from compress.routing.information import part_gains
from compress.routing.skipping import uniform_path
from compress.routing.step_networks import StepRegressor

REMEMBERED = 3  # calls whose states and predictions a skip may read (a solver of order 3)
REGRESSOR, RISES = "regressor", "rises"
CLEAN, CLEAN_BEFORE = "clean", "clean_before"  # of two neighbouring calls of a walk
GIVEN = "latent"  # the value with o, the latent of the input
Values = dict[str, torch.Tensor]
# Told of a place and of the clean latent that the call there tells.
Watch = Callable[[int, torch.Tensor], None]


class Chooser(nn.Module):
    """What chooses the next step of a walk, by what the component `regressor` predicts.

    Args:
        rules: Which gain leads to which interval.
        metrics: How many metrics the regressor predicts the rise of.

    Attributes:
        weights: w_c of both parts, [2, metrics].
    """

    weights: torch.Tensor

    def __init__(self, rules: Rules, metrics: int):
        super().__init__()
        self.rules = rules
        self.register_buffer("weights", torch.zeros(2, metrics))

    def gains(
        self,
        steps: Steps,
        now: torch.Tensor,
        before: torch.Tensor,
        given: torch.Tensor,
        timestep: int,
    ) -> tuple[float, float]:
        """Both gains of a tile, FR and NR; those of a batch are averaged.

        Args:
            steps: What the process may call.
            now: f_i [B, C, h, w].
            before: f_(i-1), likewise.
            given: o, likewise.
            timestep: Of f_i.
        """
        told = torch.full((1,), timestep, dtype=torch.int64, device=given.device)
        rises = steps.call(REGRESSOR, now, before, given, told)
        if rises.is_meta:
            return 0.0, 0.0
        fr, nr = part_gains(rises.float(), self.weights).mean(0).tolist()
        return fr, nr


class AdaptiveSteps(nn.Module):
    """The process.

    Attributes:
        chain: The source's process, whose ladder is walked.
        chooser: What chooses; None for one path.
        path: The places of that path.
        watch: Told of each place of that path and its clean latent; None for nobody.
        walks: The places that each tile visited, newest last, and where it ended; whoever
            measures reads and clears it.

    Args:
        chain: A process with a ladder of at least two steps.
        chooser: See above.
        calls: How many calls the one path has; all where it is None.
    """

    by_tile = True  # whole walks are made on each tile
    factors = None  # there is more than one step

    def __init__(self, chain: Process, chooser: Chooser | None = None, calls: int | None = None):
        super().__init__()
        self.chain = chain
        self.chooser = chooser
        ladder = ladder_of(chain)
        if ladder is None:
            raise ValueError(f"a {type(chain).__name__} has no ladder of several steps")
        self.path = uniform_path(ladder.places, calls or ladder.places)
        self.watch: Watch | None = None
        self.walks: list[tuple[int, ...]] = []

    @property
    def adaptive(self) -> bool:
        """Whether the number of steps depends on the image."""
        return self.chooser is not None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The values that it reads: those of the chain, and the latent of the input."""
        names = tuple(self.chain.inputs)
        return names if GIVEN in names else (*names, GIVEN)

    @property
    def period(self) -> int:
        """Pixels of the latent after which its noise repeats itself."""
        return self.chain.period

    @property
    def ladder(self) -> Ladder:
        """The chain, of which steps are left out."""
        found = ladder_of(self.chain)
        assert found is not None  # __init__ made sure
        return found

    def latent_of(self, given: torch.Tensor) -> torch.Tensor:
        """o of the value "latent", which may hold more than it."""
        named = getattr(self.chain, "named", None)
        return given if named is None else named(given)[GIVEN]

    @property
    def steps(self) -> int:
        """How often the networks are called, at most."""
        if self.chooser is None:
            return len(self.path)
        return self.chooser.rules.most_calls(self.ladder.places)

    def restore(self, first: torch.Tensor, steps: Steps, *more: torch.Tensor) -> torch.Tensor:
        """The clean latent [B, C, h, w]; arguments are those of a process' `restore`."""
        values = dict(zip(self.inputs, (first, *more), strict=True))
        run = LadderRun(self.chain, self.ladder, values, steps)
        if self.chooser is None:
            run.visit(self.path, self.watch)
        elif first.is_meta:
            run.walk_all(self.chooser)
        else:
            run.walk(self.chooser)
        if not first.is_meta:
            self.walks.append(tuple(run.path))
        return run.result


def even_steps(chain: Process, calls: int) -> Process:
    """A chain of that many calls, spread evenly.

    Weighted sums stay weighted sums, so that the chain is exported as the whole one is.
    """
    ladder = ladder_of(chain)
    if not isinstance(chain, LinearSteps) or chain.between or ladder is None or calls == 1:
        return AdaptiveSteps(chain, calls=calls)
    path = (*uniform_path(ladder.places, calls), ladder.places)
    rows = tuple(
        Row(ladder.timesteps[path[call]], ladder.onward(path[: call + 2])) for call in range(calls)
    )
    return replace(chain, rows=rows, ladder=None)


def latent_channels(model: SRModel) -> int:
    """C of the latents that a model's chain walks on.

    Args:
        model: On the meta device.
    """
    values = model.before_process(model.blank(model.multiple, model.multiple))
    named = getattr(model.process, "named", None)
    latent = values[GIVEN] if named is None else named(values[GIVEN])[GIVEN]
    return latent.shape[1]


def install(model: SRModel, regressor: StepRegressor, rules: Rules) -> Chooser:
    """Let a model of several steps choose them: its regressor becomes a component.

    Args:
        model: Whose process has a ladder.
        regressor: Of as many channels as the latents have.
        rules: Which gain leads to which interval.

    Returns:
        The chooser, whose weights are 0.
    """
    call = Call(REGRESSOR, (CLEAN, CLEAN_BEFORE, GIVEN, TIMESTEP), (RISES,), between=True)
    ratio = model.wiring.ratios[GIVEN]
    ratios = {**model.wiring.ratios, CLEAN: ratio, CLEAN_BEFORE: ratio}
    last = next(i for i, one in enumerate(model.wiring.calls) if one in model.wiring.after)
    calls = (*model.wiring.calls[:last], call, *model.wiring.calls[last:])
    setattr(model, REGRESSOR, regressor.eval().requires_grad_(False))
    model.wiring = replace(model.wiring, calls=calls, ratios=ratios)
    chooser = Chooser(rules, regressor.metrics).to(next(regressor.parameters()).device)
    model.put_process(AdaptiveSteps(model.process, chooser).eval())
    return chooser


def adaptive_process(model: SRModel) -> AdaptiveSteps:
    """The process of a model with adaptive steps.

    Raises:
        TypeError: It has another.
    """
    if not isinstance(model.process, AdaptiveSteps):
        raise TypeError(f"a {type(model.process).__name__} has no adaptive steps")
    return model.process


def ladder_of(chain: Process) -> Ladder | None:
    """The ladder of a process that has one of at least two steps."""
    found: Ladder | None = getattr(chain, "ladder", None)
    return found if found is not None and chain.steps > 1 else None


class LadderRun:
    """One tile, or a whole map, on its way down a ladder.

    Args:
        chain: The source's process.
        ladder: Its ladder.
        values: What the process reads, by name.
        steps: What it may call.
    """

    def __init__(self, chain: Process, ladder: Ladder, values: Values, steps: Steps):
        self.chain = chain
        self.ladder = ladder
        self.steps = steps
        self.source = values
        named = getattr(chain, "named", None)
        self.values: Values = dict(values) if named is None else named(values[GIVEN])
        self.state = weighted_sum(ladder.start, self.values)
        self.path: list[int] = []
        self.seen: dict[str, Any] = {}  # what the next step sees in the place of other values
        self.result = self.state

    @property
    def given(self) -> torch.Tensor:
        """o, the latent of the input [B, C, h, w]."""
        return self.values[GIVEN]

    def call(self, place: int) -> torch.Tensor:
        """Call the networks at a place; the clean latent that they tell."""
        told = self.state.new_full((len(self.state),), self.ladder.timesteps[place]).long()
        shown = self.state
        if hasattr(self.chain, "shown"):
            shown = self.chain.shown(self.state, self.source[GIVEN], place)
        prediction = self.steps(shown, told, **self.seen)
        index = len(self.path)
        self.path.append(place)
        self.values |= {STATE: self.state, PREDICTION: prediction}
        self.values |= {f"{STATE}_{index}": self.state, f"{PREDICTION}_{index}": prediction}
        for name in (STATE, PREDICTION):
            self.values.pop(f"{name}_{index - REMEMBERED}", None)
        return weighted_sum(self.ladder.clean_of(place), self.values)

    def go(self, place: int, clean: torch.Tensor) -> None:
        """Take the state to a later place, or to the end."""
        self.state = weighted_sum(self.ladder.onward((*self.path, place)), self.values)
        self.result = self.state
        chain = self.chain
        if isinstance(chain, LinearSteps) and chain.between and place < self.ladder.places:
            made = chain.look_again(clean, self.values, self.steps)
            swapped = chain.rows[place].instead
            self.seen = {name: made[other] for name, other in swapped.items()}

    def visit(self, path: Any, watch: Watch | None = None) -> None:
        """Walk one path and on to the end."""
        places = [*path, self.ladder.places]
        for place, following in pairwise(places):
            clean = self.call(place)
            if watch is not None:
                watch(place, clean)
            self.go(following, clean)

    def walk(self, chooser: Chooser) -> None:
        """Walk as the gains say; a tile that leaves has its best clean latent."""
        walk = Walk(chooser.rules, self.ladder.places)
        clean = self.call(0)
        best = clean
        following: int | None = walk.first()
        while following is not None:
            self.go(following, clean)
            if following == self.ladder.places:
                return
            walk.go(following)
            before, clean = clean, self.call(following)
            following = walk.onward(*self._gains(chooser, clean, before, following))
            if walk.best_place == walk.place:
                best = clean
        self.result = best

    def _gains(
        self, chooser: Chooser, now: torch.Tensor, before: torch.Tensor, place: int
    ) -> tuple[float, float]:
        return chooser.gains(self.steps, now, before, self.given, self.ladder.timesteps[place])

    def walk_all(self, chooser: Chooser) -> None:
        """The longest walk that there can be: what a plan counts."""
        stride = min(chooser.rules.intervals)
        path = [0, *range(chooser.rules.first, self.ladder.places, stride)]
        before: torch.Tensor | None = None
        for place, following in zip(path, [*path[1:], self.ladder.places], strict=True):
            clean = self.call(place)
            if before is not None:
                self._gains(chooser, clean, before, place)
            before = clean
            self.go(following, clean)
