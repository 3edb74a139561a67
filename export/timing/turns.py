"""Calls of several functions in turns, so that a load that comes and goes hits all alike.

What holds on another day is the ratio. With one thread the clock is this process's processor time,
in which other work on the machine does not count. With more it is the time of day. A turn is some
calls of one function, of which the first does not count: idle threads of the one before still spin
for a while, on the cores that this one's need.
"""

import os
import time
from collections.abc import Callable, Mapping

from compress.core.errors import UserError
from compress.core.machine import processor

TURN = 3  # calls that count
MILLISECONDS = 1e3  # of a second


def machine() -> str:
    """The processor's name, with the number of cores that this process sees."""
    cores = os.cpu_count()
    return f"{processor()}, {cores} {'core' if cores == 1 else 'cores'}"


def interleaved(
    runs: Mapping[str, Callable[[], object]], repeats: int, threads: int | None = None
) -> dict[str, list[float]]:
    """Time all functions in turns of TURN calls, after one that does not count.

    Args:
        runs: Label -> function.
        repeats: Calls of each that count.
        threads: CPU threads that the functions compute with; None where a GPU or another process
            computes, which the processor time of this one does not hold.

    Returns:
        Label -> milliseconds of each call.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    times: dict[str, list[float]] = {label: [] for label in runs}
    for first in range(0, repeats, TURN):
        for label, run in runs.items():
            run()
            for _ in range(min(TURN, repeats - first)):
                start = clock()
                run()
                times[label].append((clock() - start) * MILLISECONDS)
    return times


def check_counts(things: str, number: int, threads: int, repeats: int) -> None:
    """Raise UserError unless there is at least one of each."""
    if number < 1 or threads < 1 or repeats < 1:
        raise UserError(
            f"cannot measure {number} {things} with {threads} threads and {repeats} repeats; "
            "each must be at least 1"
        )
