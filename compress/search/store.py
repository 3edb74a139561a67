"""The study that workers share: Optuna's journal in the study's folder, or a data base.

A store that cannot be reached for a while is waited for.
"""

import logging
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from compress.core.errors import UserError, first_line
from compress.core.files import is_running
from compress.search.attempts import (
    BEAT,
    LOST,
    OWNER,
    POINT,
    RELEASED,
    RESULT,
    WHY,
    Standing,
    standings,
)
from compress.search.results import MEASURED, Result
from compress.search.settings import SETTINGS, Settings
from compress.search.space import Point

_LOG = logging.getLogger(__name__)

JOURNAL = "journal.log"
LATER = 1.0  # seconds until the first retry, twice as many until the next
LONGEST = 30.0
# What a store raises that is away: of files, of a data base, and of a lock that went with it.
AWAY = (OSError, StorageInternalError, RuntimeError)
LOCK = "did not possess lock"
T = TypeVar("T")


class StoreLostError(UserError):
    """The store could not be reached for longer than a worker waits."""


class Store:
    """One study as a worker sees it. Every change is one write, that is made or not.

    Args:
        folder: The study's.
        settings: Of the study.
        url: A data base that Optuna takes, such as `postgresql://…`; None for the journal.
        patience: Seconds for which a store that is away is waited for.
    """

    def __init__(
        self, folder: Path, settings: Settings, url: str | None = None, patience: float = 3600
    ):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder = folder
        self.patience = patience
        self.seen: dict[int, tuple[int, float]] = {}
        self.me = [platform.node(), os.getpid()]
        self.storage = self.call(lambda: self._open(url))
        directions = ["maximize" if one.higher else "minimize" for one in settings.objectives]
        self.study = self.call(
            lambda: optuna.create_study(
                study_name=folder.resolve().name,
                storage=self.storage,
                directions=directions,
                sampler=optuna.samplers.RandomSampler(),  # asked for nothing: see propose.py
                load_if_exists=True,
            )
        )
        self.id = self.study._study_id
        told = [one == StudyDirection.MAXIMIZE for one in self.study.directions]
        if told != [one.higher for one in settings.objectives]:
            raise UserError(
                f"{folder}: the store has a study of that name with other objectives; choose "
                "another --study"
            )

    def _open(self, url: str | None) -> BaseStorage:
        if url is None:
            return JournalStorage(JournalFileBackend(str(self.folder / JOURNAL)))
        try:
            return RDBStorage(url)
        except (ImportError, ValueError) as error:
            raise UserError(f"--storage: {first_line(error)}") from None

    def call(self, work: Callable[[], T]) -> T:
        """What `work` returns, as soon as the store can be reached.

        Raises:
            StoreLostError: It could not for `patience` seconds.
        """
        began, pause = time.monotonic(), LATER
        while True:
            try:
                if not (self.folder / SETTINGS).is_file():  # else a journal would begin anew
                    raise OSError(f"{self.folder / SETTINGS} is not there")
                return work()
            except UpdateFinishedTrialError:
                raise
            except AWAY as error:
                if isinstance(error, RuntimeError) and LOCK not in str(error):
                    raise
                if time.monotonic() - began > self.patience:
                    raise StoreLostError(
                        f"{self.folder}: the store could not be reached for {self.patience:,.0f} s "
                        f"({first_line(error)}); give the same command again when it can be"
                    ) from None
                if pause == LATER:
                    _LOG.warning("the store is away (%s); waiting for it", first_line(error))
                time.sleep(pause)
                pause = min(LONGEST, 2 * pause)

    def trials(self) -> list[FrozenTrial]:
        """All attempts at all points."""
        return self.call(lambda: self.storage.get_all_trials(self.id, deepcopy=False))

    def standings(self) -> dict[int, Standing]:
        """Where every point stands, by its number."""
        return standings(self.trials())

    def add(self, number: int, proposed: FrozenTrial) -> None:
        """Queue an attempt at a point, of a trial that has its values."""
        attempt = optuna.create_trial(
            state=TrialState.WAITING,
            params=proposed.params,
            distributions=proposed.distributions,
            system_attrs=proposed.system_attrs,
            user_attrs={POINT: number},
        )
        self.call(lambda: self.study.add_trial(attempt))

    def take(self, attempt: FrozenTrial) -> bool:
        """Take an attempt that waits; whether this worker has it, and no other."""
        if not self._set(attempt, TrialState.RUNNING):
            return False
        return self._note(attempt, OWNER, self.me)

    def beat(self, attempt: FrozenTrial, count: int) -> bool:
        """Say that this worker lives; whether it still has the attempt."""
        return self._note(attempt, BEAT, count)

    def tell(self, attempt: FrozenTrial, found: Result, values: list[float] | None) -> bool:
        """End an attempt with its result; whether it counts.

        It does not where the attempt was given up for lost meanwhile. Another has the point then.

        Args:
            attempt: One that this worker has.
            found: What became of the point.
            values: Of the objectives; None of a point that was not measured.
        """
        state = TrialState.COMPLETE if found["state"] == MEASURED else TrialState.PRUNED
        return self._note(attempt, RESULT, dict(found)) and self._set(attempt, state, values)

    def give_up(self, attempt: FrozenTrial, why: str) -> bool:
        """Say that an attempt does not count; whether this worker was the one to say so."""
        return self._note(attempt, WHY, why) and self._set(attempt, TrialState.FAIL)

    def release(self, attempt: FrozenTrial) -> None:
        """Give back an attempt of this worker, which is interrupted."""
        self.give_up(attempt, RELEASED)

    def _note(self, attempt: FrozenTrial, key: str, value: object) -> bool:
        number = attempt._trial_id
        try:
            self.call(lambda: self.storage.set_trial_user_attr(number, key, value))
        except UpdateFinishedTrialError:
            return False
        return True

    def _set(
        self, attempt: FrozenTrial, state: TrialState, values: list[float] | None = None
    ) -> bool:
        number = attempt._trial_id
        try:
            return self.call(lambda: self.storage.set_trial_state_values(number, state, values))
        except UpdateFinishedTrialError:
            # A write that was told as failed may have been made after all.
            there = self.call(lambda: self.storage.get_trial(number))
            return there.state == state and there.user_attrs.get(OWNER) == self.me

    def reap(self, grace: float) -> None:
        """Give up attempts whose workers are lost.

        One of this machine is lost when there is no such process. Any other is when it has not been
        heard of for `grace` seconds of this process's clock, so that no two clocks are compared.
        """
        now = time.monotonic()
        for attempt in self.trials():
            if attempt.state != TrialState.RUNNING:
                continue
            beat = attempt.user_attrs.get(BEAT, -1)
            seen, since = self.seen.get(attempt.number, (None, now))
            if seen != beat:
                self.seen[attempt.number] = (beat, now)
                since = now
            host, process = attempt.user_attrs.get(OWNER, (None, 0))
            is_gone = host == self.me[0] and not is_running(process)
            if (is_gone or now - since > grace) and self.give_up(attempt, LOST):
                _LOG.warning(
                    "point %d: the worker %s on %s is lost; the point is taken again",
                    attempt.user_attrs[POINT],
                    process,
                    host,
                )

    def repair(self) -> None:
        """Queue another attempt at every point of which no attempt counts or can count yet."""
        for number, standing in self.standings().items():
            if standing.first is None:
                self.add(number, standing.attempts[0])


def values_of(attempt: FrozenTrial) -> Point:
    """The values of what varies at an attempt's point."""
    return dict(attempt.params)
