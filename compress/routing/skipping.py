"""Which intervals a chain takes, by how many steps it has, and paths of evenly spread calls."""

from compress.core.errors import UserError
from compress.process.walks import INTERVALS, Intervals

# Chains of few steps, in steps: our choice [REC].
LONG_INTERVALS = (1, 1, 2, 3)
SHORT_INTERVALS = (1, 1, 2, 2)
LONG = 8  # steps from which a chain takes LONG_INTERVALS
WHOLE = 100  # steps from which a chain takes INTERVALS as they are


def default_intervals(places: int) -> Intervals:
    """k1 to k4 for a chain of that many steps [REC]."""
    if places >= WHOLE:
        return INTERVALS
    return LONG_INTERVALS if places >= LONG else SHORT_INTERVALS


def uniform_path(places: int, calls: int) -> tuple[int, ...]:
    """The places that `calls` calls visit when they are spread evenly, from 0 on.

    Raises:
        UserError: More calls than steps, or none.
    """
    if not 1 <= calls <= places:
        raise UserError(f"calls: {calls}: this chain has {places} steps; choose from 1 to them")
    return tuple(places * call // calls for call in range(calls))
