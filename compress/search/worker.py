"""One worker of a study: it takes points that wait, measures them and tells what it found."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from compress.core.errors import UserError, first_line
from compress.search import snapshot
from compress.search.artefacts import Artefacts
from compress.search.attempts import MOST_LOST, POINT, RESULT, Standing
from compress.search.propose import Proposer
from compress.search.results import FAILED, MEASURED, Result, result
from compress.search.settings import Settings
from compress.search.space import Point
from compress.search.store import Store, StoreLostError, values_of

_LOG = logging.getLogger(__name__)

SNAPSHOT_EVERY = 30.0  # seconds

# (number of the point, its values, what is known of earlier batches) -> what became of it
Measure = Callable[[int, Point, list[Result]], Result]


@dataclass(frozen=True)
class Pace:
    """How workers watch each other, in seconds.

    Attributes:
        beat: Between two signs of life.
        grace: Without a sign, after which a worker counts as lost.
        poll: Until a worker without a point looks again.
    """

    beat: float = 30.0
    grace: float = 300.0
    poll: float = 5.0


class Worker:
    """Works on a study until it has its points.

    Args:
        store: The study.
        settings: Of the study.
        trials: How many points it is to have.
        measure: Measures one.
        pace: How workers watch each other.
        artefacts: Where the points so far are copied; None for nowhere.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        trials: int,
        measure: Measure,
        pace: Pace,
        artefacts: Artefacts | None = None,
    ):
        self.artefacts = artefacts
        self.store = store
        self.settings = settings
        self.trials = trials
        self.measure = measure
        self.pace = pace
        self.proposer = Proposer(settings)
        self.exhausted = False
        self.written = float("-inf")

    def run(self) -> dict[int, Standing]:
        """Work until all points have ended; returns where they stand."""
        while True:
            attempt = self._next()
            if attempt is not None:
                self._work_on(attempt)
            elif self.finished():
                points = self._points()
                self._write(points)
                return points
            else:
                time.sleep(self.pace.poll)

    def _points(self) -> dict[int, Standing]:
        """Where the points stand that are asked for."""
        found = self.store.standings()
        return {number: found[number] for number in found if number < self.trials}

    def _write(self, points: dict[int, Standing]) -> None:
        """Write what has ended so far for whoever reads the study."""
        snapshot.write(self.store.folder, snapshot.rows_of(points))
        if self.artefacts is not None:
            self.artefacts.mirror(self.store.folder)

    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        points = self._points()
        ended = all(standing.ended is not None for standing in points.values())
        return ended and (len(points) == self.trials or self.exhausted)

    def _next(self) -> FrozenTrial | None:
        """An attempt that this worker has taken; None where none waits."""
        self.store.reap(self.pace.grace)
        self.store.repair()
        if not self._waiting():
            self._extend()
        for attempt in self._waiting():
            if self.store.take(attempt):
                return attempt
        return None

    def _waiting(self) -> list[FrozenTrial]:
        """Attempts that wait and would count, in the order of their points."""
        return [
            standing.first
            for standing in self._points().values()
            if standing.first is not None and standing.first.state == TrialState.WAITING
        ]

    def _extend(self) -> None:
        """Queue the batch of the first point that is missing, once all before it have ended."""
        points = self._points()
        missing = next((n for n in range(self.trials) if n not in points), None)
        if missing is None:
            return
        batch = self.proposer.batch_of(missing)
        before: dict[int, FrozenTrial] = {}
        for number in range(batch.start):
            standing = points[number]
            known = standing.ended if self.proposer.waits else standing.attempts[0]
            if known is None:
                return
            before[number] = known
        proposed = self.proposer.propose(batch, before)
        self.exhausted = len(proposed) < len(batch)
        for number, trial in zip(batch, proposed, strict=False):
            if number not in points and number < self.trials:
                self.store.add(number, trial)

    def _work_on(self, attempt: FrozenTrial) -> None:
        """Measure an attempt's point and tell it."""
        points = self._points()
        number = attempt.user_attrs[POINT]
        batch = self.proposer.batch_of(number)
        earlier = [
            standing.ended.user_attrs[RESULT]
            for other, standing in points.items()
            if other < batch.start and standing.ended is not None
        ]
        began = time.monotonic()
        try:
            with self._beating(attempt):
                found = self._measured(points[number], attempt, earlier)
        except BaseException:
            self.store.release(attempt)
            raise
        found["seconds"] = round(time.monotonic() - began, 2)
        if not self.store.tell(attempt, found, self._values(found)):
            _LOG.warning("point %d: another worker has it; this result is dropped", number)
            return
        self._say(number, values_of(attempt), found)
        if time.monotonic() - self.written > SNAPSHOT_EVERY:
            self._write(self._points())
            self.written = time.monotonic()

    def _measured(self, standing: Standing, attempt: FrozenTrial, earlier: list[Result]) -> Result:
        if standing.lost >= MOST_LOST:
            return result(FAILED, f"{standing.lost} workers were lost on it")
        try:
            found = self.measure(standing.number, values_of(attempt), earlier)
        except UserError as error:
            return result(FAILED, str(error))
        except OSError:  # of the machine, not of the point
            raise
        except Exception as error:
            _LOG.debug("point %d", standing.number, exc_info=True)
            return result(FAILED, f"{type(error).__name__}: {first_line(error)}")
        lacking = [name for name, value in self._named(found).items() if value is None]
        if found["state"] == MEASURED and lacking:
            found["state"] = FAILED
            found["reason"] = f"{', '.join(lacking)} has no value"
        return found

    def _named(self, found: Result) -> dict[str, float | None]:
        """The objectives' values by name."""
        values: dict[str, float | None] = {}
        for one in self.settings.objectives:
            values[one.name] = (found["costs"] if one.is_cost else found["metrics"]).get(one.name)
        return values

    def _values(self, found: Result) -> list[float] | None:
        """The objectives' values; None of a point that was not measured."""
        if found["state"] != MEASURED:
            return None
        return [value for value in self._named(found).values() if value is not None]

    def _say(self, number: int, point: Point, found: Result) -> None:
        where = " ".join(f"{key}={value}" for key, value in point.items()) or "the recipe itself"
        what = f"{found['state']}, {found['reason']}"
        if found["state"] == MEASURED:
            named = self._named(found)
            what = ", ".join(f"{name} {value:,.5g}" for name, value in named.items())
        ended = sum(1 for one in self._points().values() if one.ended is not None)
        _LOG.info(
            "%d of %d: point %d, %s: %s (%.0f s)",
            *(ended, self.trials, number, where, what, found["seconds"]),
        )

    @contextmanager
    def _beating(self, attempt: FrozenTrial) -> Iterator[None]:
        """Give signs of life meanwhile."""
        done = threading.Event()

        def beat() -> None:
            count = 0
            while not done.wait(self.pace.beat):
                count += 1
                try:
                    if not self.store.beat(attempt, count):
                        return
                except StoreLostError:
                    return  # which this worker finds out when it tells its result

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
