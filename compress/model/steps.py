"""Which step of a chain the networks run at."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_present: ContextVar[int] = ContextVar("step", default=0)


def present_step() -> int:
    """The number of the step that runs, from 0; outside of a chain it is 0."""
    return _present.get()


@contextmanager
def at_step(number: int) -> Iterator[None]:
    """Let what runs inside belong to a step.

    The state belongs to the context of execution: other threads and tasks do not see it.

    Args:
        number: Of the step, from 0.
    """
    token = _present.set(number)
    try:
        yield
    finally:
        _present.reset(token)
