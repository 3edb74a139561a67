"""Which points come next, as a function of the study's settings and of the points before alone.

Points come in batches. A batch is proposed once all points of those before have ended, from these
and the seed. So what is tried depends neither on the number of workers nor on who ends first, and
two workers that propose at once propose the same.
"""

import json
import random
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from compress.search.attempts import RESULT
from compress.search.results import MEASURED, Result
from compress.search.settings import Settings
from compress.search.space import Dimension, Point, Range, Space, Value

LEARNING = ("nsga2", "tpe")  # from what became of earlier points
SAMPLERS = (*LEARNING, "random", "grid")
CONSTRAINT = "constraints:bounds"  # a system attribute, as Trial.set_constraint writes it
NOT_MEASURED = 1e3  # excess of a point that could not be measured at all
TRIES = 20  # at a point that was not proposed before
WORST = float("inf")


class Proposer:
    """The points of a study, in their order."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.space = settings.space
        self.batch = settings.batch
        self.size = space_size(self.space)
        self.grid: list[Point] | None = None
        if settings.sampler == "grid":
            self.grid = list(self.space.points())

    @property
    def waits(self) -> bool:
        """Whether a batch depends on what became of those before."""
        return self.settings.sampler in LEARNING or self.settings.proxy > 0

    def batch_of(self, number: int) -> range:
        """The numbers of the batch that a point is in."""
        first = number // self.batch * self.batch
        return range(first, first + self.batch)

    def propose(self, batch: range, before: Mapping[int, FrozenTrial]) -> list[FrozenTrial]:
        """The points of a batch as trials with their values.

        Args:
            batch: Their numbers.
            before: An attempt at each point of earlier batches, by number; where a batch `waits`,
                the one that counts.

        Returns:
            As many as there are; fewer where every point of the space was proposed.
        """
        if self.grid is not None:
            return [self._trial(point) for point in self.grid[batch.start : batch.stop]]
        seed = self.settings.seed + batch.start
        study = self._replay(before if self.waits else {}, seed)
        known = {_name(trial.params) for trial in before.values()}
        found: list[FrozenTrial] = []
        rest = self._rest(seed)
        for _ in batch:
            if len(known) == self.size:
                break
            trial = self._ask(study, known) or next(
                (self._trial(point) for point in rest if _name(point) not in known), None
            )
            if trial is None:
                break
            known.add(_name(trial.params))
            found.append(trial)
        return found

    def _ask(self, study: optuna.Study, known: set[str]) -> FrozenTrial | None:
        """What the sampler proposes that is not known; None where it only repeats itself."""
        for _ in range(TRIES):
            trial = study.ask()
            point: Point = {}
            for one in self.space.dimensions:
                if self.space.active(one, point):
                    point[one.key] = _suggest(trial, one)
            if _name(point) not in known:
                return study.get_trials(deepcopy=False)[trial.number]
        return None

    def _rest(self, seed: int) -> Iterator[Point]:
        """All points of a small space, in a random order; none of one without an end."""
        if not self.space.is_finite():
            return iter(())
        points = list(self.space.points())
        random.Random(seed).shuffle(points)
        return iter(points)

    def _replay(self, before: Mapping[int, FrozenTrial], seed: int) -> optuna.Study:
        """A study in memory in which the points before have ended, one after the other."""
        wanted = self.settings.objectives
        study = optuna.create_study(
            directions=["maximize" if one.higher else "minimize" for one in wanted],
            sampler=self._sampler(seed),
        )
        worst = [-WORST if one.higher else WORST for one in wanted]
        for number in sorted(before):
            study.add_trial(_as_ended(before[number], worst))
        return study

    def _sampler(self, seed: int) -> BaseSampler:
        name = self.settings.sampler
        if name == "nsga2":
            return NSGAIISampler(population_size=self.batch, seed=seed)
        if name == "tpe":
            return TPESampler(seed=seed, n_startup_trials=self.batch)
        return RandomSampler(seed=seed)

    def _trial(self, point: Point) -> FrozenTrial:
        domains = {one.key: distribution(one) for one in self.space.dimensions}
        return optuna.create_trial(
            state=TrialState.WAITING,
            params=point,
            distributions={key: domains[key] for key in point},
        )


def distribution(dimension: Dimension) -> BaseDistribution:
    """A dimension as Optuna has it."""
    domain = dimension.domain
    if not isinstance(domain, Range):
        return CategoricalDistribution(domain)
    if domain.whole:
        step = 1 if domain.step is None else int(domain.step)
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log, step=step)
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


def _suggest(trial: optuna.Trial, dimension: Dimension) -> Value:
    """What a sampler proposes for a dimension."""
    domain = dimension.domain
    if not isinstance(domain, Range):
        return trial.suggest_categorical(dimension.key, domain)
    if domain.whole:
        low, high, step = int(domain.low), int(domain.high), int(domain.step or 1)
        return trial.suggest_int(dimension.key, low, high, step=step, log=domain.log)
    return trial.suggest_float(
        dimension.key, domain.low, domain.high, step=domain.step, log=domain.log
    )


def _as_ended(attempt: FrozenTrial, worst: list[float]) -> FrozenTrial:
    """An attempt as a sampler sees it: with values, and by how much it is beyond the bounds."""
    result: Result = attempt.user_attrs[RESULT]
    is_measured = result["state"] == MEASURED
    system: dict[str, Any] = dict(attempt.system_attrs)
    system[CONSTRAINT] = 0.0 if is_measured else (result["excess"] or NOT_MEASURED)
    return optuna.create_trial(
        state=TrialState.COMPLETE,
        params=attempt.params,
        distributions=attempt.distributions,
        system_attrs=system,
        values=attempt.values if is_measured else worst,
    )


def space_size(space: Space) -> int | None:
    """How many points there are; None where there is no end to them."""
    return sum(1 for _ in space.points()) if space.is_finite() else None


def _name(point: Mapping[str, Any]) -> str:
    return json.dumps(dict(point), sort_keys=True)
