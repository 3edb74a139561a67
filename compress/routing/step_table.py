"""Adaptive steps as data, for a host program: every skip that a walk can make, and the rules."""

from collections.abc import Iterator
from typing import Any, TypeGuard

from compress.core.errors import UserError
from compress.process.linear_steps import LinearSteps
from compress.process.walks import Rules
from compress.routing.adaptive import REGRESSOR, AdaptiveSteps

MOST = 20_000  # entries of a table


def is_linear(process: object) -> TypeGuard[AdaptiveSteps]:
    """Whether a process is adaptive steps of weighted sums, which a host program can add."""
    return (
        isinstance(process, AdaptiveSteps)
        and process.chooser is not None
        and isinstance(process.chain, LinearSteps)
        and not process.chain.between
    )


def step_table(process: AdaptiveSteps) -> dict[str, Any]:
    """The walk as host/walking.py reads it.

    Args:
        process: Adaptive steps of weighted sums.

    Returns:
        "timesteps" and "clean", the factors of the clean latent, by place; "skips", the factors of
        the next state by the places that they depend on, joined by commas; the rules; "weights" of
        the metrics in both gains.

    Raises:
        UserError: There are too many skips.
        ValueError: It is no such process.
    """
    chooser = process.chooser
    if chooser is None or not is_linear(process):
        raise ValueError("only adaptive steps of weighted sums have a table")
    ladder = process.ladder
    skips: dict[str, dict[str, float]] = {}
    for path in _paths(chooser.rules, ladder.places, whole=ladder.memory > 1):
        skips[",".join(map(str, path))] = dict(ladder.onward(path))
        if len(skips) > MOST:
            raise UserError(
                f"the walk has more than {MOST} different skips, too many for a manifest; choose "
                "longer intervals, or a solver of order 1"
            )
    return {
        "regressor": REGRESSOR,
        "places": ladder.places,
        "timesteps": list(ladder.timesteps),
        "clean": [dict(ladder.clean_of(place)) for place in range(ladder.places)],
        "whole_path": ladder.memory > 1,
        "skips": skips,
        "intervals": list(chooser.rules.intervals),
        "tau": chooser.rules.tau,
        "first": chooser.rules.first,
        "leave": chooser.rules.leave,
        "weights": chooser.weights.tolist(),
    }


def _paths(rules: Rules, places: int, whole: bool) -> Iterator[tuple[int, ...]]:
    """Every path that a walk can have taken; its last two places where they are not `whole`."""
    first = (0, min(places, rules.first))
    waiting = [first]
    seen = {first}
    while waiting:
        path = waiting.pop()
        yield path
        if path[-1] == places:
            continue
        for interval in sorted(set(rules.intervals)):
            before = path if whole else path[-1:]
            longer = (*before, min(places, path[-1] + interval))
            if longer not in seen:
                seen.add(longer)
                waiting.append(longer)
