"""What became of a point: its figures, or why it has none."""

from typing import Any

from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

MEASURED, INFEASIBLE, PRUNED, FAILED = "measured", "infeasible", "pruned", "failed"


class Result(TypedDict):
    """What became of a point.

    Attributes:
        state: MEASURED, INFEASIBLE (beyond a bound), PRUNED (hopeless) or FAILED.
        reason: Why it was not measured.
        costs: By name, as far as it could be planned.
        metrics: Means by name; None for one without a value.
        proxy: PSNR to the source in dB, by the share of the training after which it was taken.
        excess: By how much it is beyond all bounds, of 1.
        seconds: How long it took.
        data: The data set, its protocol, and how many images; empty where nothing was measured.
    """

    state: str
    reason: str
    costs: dict[str, float]
    metrics: dict[str, float | None]
    proxy: dict[str, float]
    excess: float
    seconds: float
    data: list[str | int]


def result(state: str, reason: str = "", **more: Any) -> Result:
    """A result; what is not given is empty."""
    empty: Result = {
        "state": state,
        "reason": reason,
        "costs": {},
        "metrics": {},
        "proxy": {},
        "excess": 0.0,
        "seconds": 0.0,
        "data": [],
    }
    return {**empty, **more}  # type: ignore[typeddict-item]  # keys are those of Result
