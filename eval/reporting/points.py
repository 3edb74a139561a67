"""What stands on a pair of axes: points of systems, chosen from a board."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from compress.core.errors import UserError, nearest
from compress.cost.phones import rates
from eval.metric.metrics import METRICS
from eval.metric.names import is_metric, metric_of
from eval.reporting.axes import AXES, DEVICE
from eval.reporting.board import Board, System, averages_of, gather, of_data


@dataclass(frozen=True)
class Point:
    """One system on a pair of axes.

    Attributes:
        label: Its name.
        x: Its place in the axis' unit.
        y: The metric's mean.
        ours: Whether it was measured here.
        word: How x came about: counted, predicted, measured or published.
    """

    label: str
    x: float
    y: float
    ours: bool
    word: str = ""


@dataclass(frozen=True)
class Selection:
    """Everything on one pair of axes.

    Attributes:
        dataset: The data set.
        protocol: The protocol.
        metric: The metric of the y axis.
        axis: A key of AXES.
        points: The systems that have both.
        left_out: Published systems whose place on the x axis nobody printed.
        device: The one of a latency axis.
        beyond: Published systems that are too large for the x axis.
    """

    dataset: str
    protocol: str
    metric: str
    axis: str
    points: list[Point]
    left_out: list[str]
    device: str | None = None
    beyond: list[Point] = field(default_factory=list)

    @property
    def x_label(self) -> str:
        """What the x axis says."""
        label = AXES[self.axis].label
        if self.axis != "latency":
            return label
        ours = " or ".join(sorted({point.word for point in self.points if point.ours}))
        return f"{label} on {self.device}: ours {ours}, others as published"


def choose(board: Board, metric: str, axis: str) -> Selection:
    """One metric against one axis.

    Args:
        board: The systems.
        metric: The name of a metric.
        axis: A key of AXES.

    Raises:
        UserError: One of our runs lacks the metric or its place on the axis.
    """
    points: list[Point] = []
    left_out: list[str] = []
    for system in board.systems:
        if system.ours:
            _check_has_both(system, board, metric, axis)
        elif metric not in system.y:
            continue
        elif axis not in system.x:
            left_out.append(system.label)
            continue
        word = _word(system, axis)
        points.append(Point(system.label, system.x[axis], system.y[metric], system.ours, word))
    return Selection(board.dataset, board.protocol, metric, axis, points, left_out, board.device)


def _word(system: System, axis: str) -> str:
    if not system.ours:
        return "published"
    if axis != "latency":
        return "counted"
    return "measured" if system.on_device else "predicted"


def until(selection: Selection, x_max: float) -> Selection:
    """Without the published systems beyond `x_max`, so that ours are not crowded.

    Raises:
        UserError: One of ours is beyond it.
    """
    beyond = [point for point in selection.points if point.x > x_max]
    for point in beyond:
        if point.ours:
            raise UserError(
                f"--x-max {x_max:g} leaves out '{point.label}', which stands at {point.x:g}; "
                "choose a larger one"
            )
    near = [point for point in selection.points if point.x <= x_max]
    return replace(selection, points=near, beyond=beyond)


def select(
    runs: list[Path],
    metric: str = "musiq",
    dataset: str | None = None,
    axis: str = "size",
    device: str | None = None,
) -> Selection:
    """`choose` from what `gather` finds.

    Args:
        runs: Run directories that were evaluated.
        metric: The name of a metric.
        dataset: May be left out where the runs have exactly one in common.
        axis: A key of AXES.
        device: Whose latency; by default DEVICE where the axis is latency.
    """
    check(metric, axis)
    return choose(gather(runs, dataset, device_of(axis, device)), metric, axis)


def device_of(axis: str, device: str | None) -> str | None:
    """The device that was asked for, by default DEVICE where the axis is latency."""
    if device:
        return device
    return DEVICE if axis == "latency" else None


def check(metric: str, axis: str) -> None:
    """Raise UserError for a misspelt metric or axis; a metric may be an axis."""
    if axis not in AXES and not is_metric(axis):
        raise UserError(
            f"axis '{axis}' is unknown{nearest(axis, [*AXES, *METRICS])}; choose from "
            f"{', '.join(AXES)}, or a metric"
        )
    metric_of(metric)


def front(points: list[Point], higher: bool) -> list[Point]:
    """The points that no other beats in both, by growing x.

    None is smaller or equal in x and better or equal in y.

    Args:
        points: Any points.
        higher: Whether a higher y is better.
    """
    sign = 1 if higher else -1
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x, -sign * point.y)):
        if not kept or sign * point.y > sign * kept[-1].y:
            kept.append(point)
    return kept


def _check_has_both(system: System, board: Board, metric: str, axis: str) -> None:
    """Raise UserError where one of our runs has no place on the axes, with what it has."""
    if metric in system.y and axis in system.x:
        return
    if system.run is None:
        raise ValueError(f"{system.label}: has no run directory to say why {metric} is missing")
    if metric not in system.y:
        raise UserError(without_metric(system, system.run, metric, board.dataset))
    raise UserError(_without_place(system, system.run, axis, board.device))


def without_metric(system: System, run: Path, metric: str, dataset: str) -> str:
    """The sentence for a run that has no such metric, with what it has."""
    averages = of_data(run, averages_of(run), dataset)
    why = f" ({averages['blank'][metric]})" if metric in averages["blank"] else ""
    return (
        f"{run}: has no {metric} on {averages['data']}{why}; "
        f"it has {', '.join(system.y) or 'none'}: "
        "choose one of these with --metric, or evaluate again"
    )


def _without_place(system: System, run: Path, axis: str, device: str | None) -> str:
    if axis == "latency":
        return (
            f"{run}: its latency on {device} is not known; "
            f"it can be predicted for {', '.join(rates())}: --device"
        )
    file = run / "ledger.json"
    if not file.is_file():
        return f"{run}: has no ledger.json, so its size is unknown; give a finished run directory"
    return (
        f"{file}: has no cost.after.{AXES[axis].key}, which --x {axis} draws; "
        f"it has {', '.join(system.x) or 'none'}"
    )
