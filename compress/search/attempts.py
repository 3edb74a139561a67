"""Points of a study and the attempts at them.

A point is one recipe of the space, with a number. An attempt is a trial of Optuna that measures a
point: WAITING, RUNNING, or finished. COMPLETE has figures, PRUNED is a point that was ended with a
reason, and FAIL is an attempt that does not count, because its worker was lost or another one has
the point. Of a point's attempts the first that ended counts, whatever else happened.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

POINT, RESULT, OWNER, BEAT, WHY = "point", "result", "owner", "beat", "why"  # user attributes
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
LOST, RELEASED = "lost", "released"  # why an attempt does not count
MOST_LOST = 3  # attempts of a point whose workers are lost, after which it has failed


@dataclass(frozen=True)
class Standing:
    """Where a point stands.

    Attributes:
        number: The point's.
        attempts: All attempts at it, in their order.
    """

    number: int
    attempts: tuple[FrozenTrial, ...]

    @property
    def ended(self) -> FrozenTrial | None:
        """The attempt that counts; None where none has ended."""
        return next((one for one in self.attempts if one.state in ENDED), None)

    @property
    def first(self) -> FrozenTrial | None:
        """The attempt that counts, or would; None where all of them do not."""
        alive = [one for one in self.attempts if one.state != TrialState.FAIL]
        return self.ended or next(iter(alive), None)

    @property
    def lost(self) -> int:
        """How many workers it has cost."""
        return sum(one.user_attrs.get(WHY) == LOST for one in self.attempts)


def standings(trials: Iterable[FrozenTrial]) -> dict[int, Standing]:
    """Where every point stands that has an attempt, by its number."""
    found: dict[int, list[FrozenTrial]] = {}
    for trial in trials:
        found.setdefault(trial.user_attrs[POINT], []).append(trial)
    return {
        number: Standing(number, tuple(sorted(found[number], key=lambda one: one.number)))
        for number in sorted(found)
    }
