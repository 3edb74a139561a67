"""What stands on a pair of axes or in a table: our runs, and the published systems of the same data set and
protocol."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from compress.core.errors import UserError, nearest
from compress.recipe.run_files import NOT_METRICS, read_averages, read_cost
from eval import published
from eval.data.named_sets import full_count
from eval.metric.metrics import METRICS


@dataclass(frozen=True)
class Axis:
    """`key`, `divisor`: of the ledger's cost. `column`: of cost.csv, with `counts` where scaled figures do not
    belong."""

    label: str
    key: str | None = None
    divisor: float = 1.0
    column: str | None = None
    counts: bool = False


AXES = {
    "size": Axis(
        "million fp32-equivalent parameters (parameters × bits / 32)",
        "param_equivalents",
        1e6,
        "params_m",
    ),
    "params": Axis("million parameters", "params", 1e6, "params_m", counts=True),
    "macs": Axis(
        "GMACs at 128 → 512 (conv + linear, as the papers count)",
        "macs_paper",
        1e9,
        "macs_g",
        counts=True,
    ),
    "ops": Axis(
        "fp32-equivalent GMACs at 128 → 512 (MACs × bits / 32)", "macs_equivalent", 1e9, "macs_g"
    ),
    "bytes": Axis("MB of weights", "bytes", 1e6),
    "latency": Axis("ms at 128 → 512"),
}
DEVICE = "Galaxy S24"  # of the latency axis, unless another is asked for


@dataclass(frozen=True)
class Point:
    """One system: `x` in the axis' unit, `y` the metric's mean. `word` says how x came about."""

    label: str
    x: float
    y: float
    ours: bool
    word: str = ""


@dataclass(frozen=True)
class System:
    """One system with all that is known of it: `x` by axis, `y` by metric."""

    label: str
    ours: bool
    x: dict[str, float]
    y: dict[str, float]
    note: str = ""
    run: Path | None = None


@dataclass(frozen=True)
class Board:
    """Systems that may stand side by side. `device` is the one of their latency, None where latency was not looked
    up."""

    dataset: str
    protocol: str
    systems: list[System] = field(default_factory=list)
    device: str | None = None


@dataclass(frozen=True)
class Selection:
    """Everything on one pair of axes; `left_out` names published systems whose place on the x axis nobody printed,
    `beyond` are those that are too large for it."""

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
        if self.axis != "latency":
            return AXES[self.axis].label
        return f"{AXES['latency'].label} on {self.device}: ours predicted from published rates, others as published"


def gather(
    runs: list[Path], dataset: str | None = None, device: str | None = None, beside: bool = True
) -> Board:
    """The runs and, with `beside`, every published system of their data set and protocol.

    `dataset` may be left out where the runs have exactly one in common. With `device`, latency too. Raises UserError
    for a run without evaluations or without the data set, and for runs under different protocols.
    """
    if not runs:
        raise UserError("no run was named; give one or more run directories")
    if device is not None and device not in _devices():
        raise UserError(
            f"device '{device}' is unknown{nearest(device, _devices())}; choose from "
            f"{', '.join(_devices())}"
        )
    found = {run: averages_of(run) for run in runs}
    dataset = dataset or _common(found)
    systems, protocols = [], {}
    for run, by_data in found.items():
        averages = _of_data(run, by_data, dataset)
        protocols[averages["protocol"]] = run
        y = {k: v for k, v in averages.items() if k not in NOT_METRICS and v is not None}
        systems.append(
            System(
                _label(run, averages),
                True,
                _costs(run) | _predicted(run, device),
                y,
                f"{averages['images']} images, {averages['data']}",
                run,
            )
        )
    if len(protocols) > 1:
        each = ", ".join(f"{run.name}: {protocol}" for protocol, run in protocols.items())
        raise UserError(
            f"the runs were evaluated on {dataset} under different protocols ({each}), which share no "
            "axis; evaluate them alike with eval.run --protocol"
        )
    protocol = next(iter(protocols))
    return Board(
        dataset,
        protocol,
        systems + (_published(dataset, protocol, device) if beside else []),
        device,
    )


def choose(board: Board, metric: str, axis: str) -> Selection:
    """One metric against one axis. Raises UserError for a run that lacks either."""
    points, left_out = [], []
    for system in board.systems:
        if metric not in system.y:
            if system.ours:
                raise UserError(_lacks(system, metric, board.dataset))
        elif axis not in system.x:
            if system.ours:
                raise UserError(_unplaced(system, axis, board.device))
            left_out.append(system.label)
        else:
            word = (
                "published" if not system.ours else "predicted" if axis == "latency" else "counted"
            )
            points.append(Point(system.label, system.x[axis], system.y[metric], system.ours, word))
    return Selection(board.dataset, board.protocol, metric, axis, points, left_out, board.device)


def until(selection: Selection, x_max: float) -> Selection:
    """Without the published systems beyond `x_max`, so that ours are not crowded. Raises UserError for one of ours."""
    beyond = [p for p in selection.points if p.x > x_max]
    if ours := [p for p in beyond if p.ours]:
        raise UserError(
            f"--x-max {x_max:g} leaves out '{ours[0].label}', which stands at {ours[0].x:g}; "
            "choose a larger one"
        )
    return replace(selection, points=[p for p in selection.points if p.x <= x_max], beyond=beyond)


def select(
    runs: list[Path],
    metric: str = "musiq",
    dataset: str | None = None,
    axis: str = "size",
    device: str | None = None,
) -> Selection:
    """`choose` from what `gather` finds."""
    check(metric, axis)
    return choose(
        gather(runs, dataset, device or (DEVICE if axis == "latency" else None)), metric, axis
    )


def check(metric: str, axis: str) -> None:
    """Raise UserError for a misspelt metric or axis."""
    if axis not in AXES:
        raise UserError(
            f"axis '{axis}' is unknown{nearest(axis, AXES)}; choose from {', '.join(AXES)}"
        )
    if metric not in METRICS:
        raise UserError(
            f"metric '{metric}' is unknown{nearest(metric, METRICS)}; choose from {', '.join(METRICS)}"
        )


def front(points: list[Point], higher: bool) -> list[Point]:
    """The points that no other beats in both: none is smaller or equal in x and better or equal in y. By growing x."""
    best, kept = None, []
    for point in sorted(points, key=lambda p: (p.x, -p.y if higher else p.y)):
        if best is None or (point.y > best if higher else point.y < best):
            kept.append(point)
            best = point.y
    return kept


def averages_of(run: Path) -> dict[str, dict]:
    """{data set: averages.json} of a run directory."""
    if not run.is_dir():
        raise UserError(f"{run}: no such run directory")
    found = [read_averages(path.parent) for path in sorted(run.glob("eval/*/averages.json"))]
    if not found:
        raise UserError(
            f"{run}: has no eval/*/averages.json; evaluate it first: python -m eval.run {run} --data …"
        )
    return {averages["data"]: averages for averages in found}


def _published(dataset: str, protocol: str, device: str | None) -> list[System]:
    systems = []
    for model, y in published.systems(dataset, protocol).items():
        x = {
            name: published.cost(model, axis.column)
            for name, axis in AXES.items()
            if axis.column and not (axis.counts and published.scaled(model))
        }
        x["latency"] = published.latency(model, device) if device else None
        systems.append(
            System(
                model,
                False,
                {k: v for k, v in x.items() if v is not None},
                y,
                "source " + ", ".join(published.sources(model, dataset, protocol) or ["C"]),
            )
        )
    return systems


def _devices() -> list[str]:
    from compress.cost.phones import rates

    return list(dict.fromkeys([*rates(), *published.devices()]))


def _costs(run: Path) -> dict[str, float]:
    return costs(read_cost(run)) if (run / "ledger.json").is_file() else {}


def costs(cost: dict) -> dict[str, float]:
    """A ledger's cost, by axis and in its unit."""
    return {
        name: cost[axis.key] / axis.divisor
        for name, axis in AXES.items()
        if axis.key and cost.get(axis.key)
    }


def _predicted(run: Path, device: str | None) -> dict[str, float]:
    """{"latency": ms} by the device's published rates, of the run's structure on the meta device."""
    from compress.cost.phones import rates

    if device not in rates() or not (run / "model.safetensors").is_file():
        return {}
    from compress.cost.count import measure
    from compress.cost.phones import predict
    from compress.recipe.checkpoint import read_structure

    model = read_structure(run)[2]
    return {"latency": next(p.ms for p in predict(measure(model)) if p.device == device)}


def _common(found: dict[Path, dict[str, dict]]) -> str:
    shared = set.intersection(*(set(by_data) for by_data in found.values()))
    if len(shared) != 1:
        each = "; ".join(f"{run.name}: {', '.join(by_data)}" for run, by_data in found.items())
        raise UserError(
            f"the runs have {len(shared)} data sets in common ({each}); choose one with --dataset"
        )
    return shared.pop()


def _of_data(run: Path, by_data: dict[str, dict], dataset: str) -> dict:
    for name, averages in by_data.items():
        if name.lower() == dataset.lower():
            return averages
    raise UserError(
        f"{run}: was not evaluated on '{dataset}'{nearest(dataset, by_data)}; it has {', '.join(by_data)}"
    )


def _lacks(system: System, metric: str, dataset: str) -> str:
    averages = _of_data(system.run, averages_of(system.run), dataset)
    why = f" ({averages['blank'][metric]})" if metric in averages["blank"] else ""
    return (
        f"{system.run}: has no {metric} on {averages['data']}{why}; it has {', '.join(system.y) or 'none'}: "
        "choose one of these with --metric, or evaluate again"
    )


def _unplaced(system: System, axis: str, device: str | None) -> str:
    if axis == "latency":
        from compress.cost.phones import rates

        return (
            f"{system.run}: its latency on {device} is not known; it can be predicted for {', '.join(rates())}: "
            "--device"
        )
    path = system.run / "ledger.json"
    if not path.is_file():
        return f"{system.run}: has no ledger.json, so its size is unknown; give a finished run directory"
    return f"{path}: has no cost.after.{AXES[axis].key}, which --x {axis} draws; it has {', '.join(system.x) or 'none'}"


def _label(run: Path, averages: dict) -> str:
    """The run's name, with the number of images where a part of a known benchmark was taken."""
    full = full_count(averages["data"], averages["protocol"])
    name = run.resolve().name
    return (
        name
        if full in (None, averages["images"])
        else f"{name} ({averages['images']} of {full} images)"
    )
