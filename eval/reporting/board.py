"""Systems that may stand side by side: our runs, and the published ones of the same protocol."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compress.core.errors import UserError, nearest
from compress.core.hub import OF_RUNS, hub_name, local_folder
from compress.cost.count import measure
from compress.cost.phones import predict, rates
from compress.process.knobs import KNOBS
from compress.recipe.profiles import devices_of, run_ms
from compress.recipe.run_files import NOT_METRICS, read_averages, read_cost, read_strengths
from eval import published
from eval.data.named_sets import full_count
from eval.reporting.axes import AXES, costs

Averages = dict[str, Any]  # what averages.json holds


@dataclass(frozen=True)
class System:
    """One system with all that is known of it.

    Attributes:
        label: Its name.
        ours: Whether it was measured here.
        x: Its place by axis, in the axis' unit.
        y: Its means by metric.
        note: Where the figures come from.
        run: Its run directory.
        knobs: Knob -> means by metric at each "strength", ascending, where it was evaluated so.
        faint: Whether a chart shows it in the background, without its name.
        on_device: Whether its latency was measured on the device, and not predicted.
    """

    label: str
    ours: bool
    x: dict[str, float]
    y: dict[str, float]
    note: str = ""
    run: Path | None = None
    knobs: Mapping[str, tuple[dict[str, float], ...]] = field(default_factory=dict)
    faint: bool = False
    on_device: bool = False


@dataclass(frozen=True)
class Board:
    """Systems on one data set under one protocol.

    Attributes:
        dataset: The data set.
        protocol: The protocol.
        systems: Ours first, then the published ones.
        device: The one of their latency; None where latency was not looked up.
    """

    dataset: str
    protocol: str
    systems: list[System] = field(default_factory=list)
    device: str | None = None


def gather(
    runs: list[Path], dataset: str | None = None, device: str | None = None, beside: bool = True
) -> Board:
    """The runs and every published system of their data set and protocol.

    Args:
        runs: Run directories that were evaluated, or their names on the hub.
        dataset: May be left out where the runs have exactly one in common.
        device: The device whose latency is looked up as well.
        beside: Whether the published systems are wanted.

    Raises:
        UserError: A run has no evaluations or lacks the data set, the runs are of different
            protocols, or the device is unknown.
    """
    if not runs:
        raise UserError("no run was named; give one or more run directories")
    given = {local_folder(run, OF_RUNS): run for run in runs}
    _check_device(device, list(given))
    found = {run: averages_of(run, given[run]) for run in given}
    dataset = dataset or _common(found)
    evaluated = {run: of_data(run, by_data, dataset) for run, by_data in found.items()}
    systems = [
        replace(_ours(run, averages, device), label=_label(given[run], averages))
        for run, averages in evaluated.items()
    ]
    protocol = _common_protocol(evaluated, dataset)
    if beside:
        systems += published_systems(dataset, protocol, device)
    return Board(dataset, protocol, systems, device)


def averages_of(run: Path, given: Path | None = None) -> dict[str, Averages]:
    """{data set: averages.json} of a run directory.

    Args:
        run: The directory.
        given: What the user calls it, where that is a name of the hub.

    Raises:
        UserError: It is no directory, or was not evaluated.
    """
    if not run.is_dir():
        raise UserError(f"{run}: no such run directory")
    found = [read_averages(path.parent) for path in sorted(run.glob("eval/*/averages.json"))]
    if not found and given is not None and hub_name(given) is not None:
        raise UserError(
            f"{given}: was published without an evaluation; name a run that has one, or evaluate "
            f"the model by itself: python -m eval.run {given} --data …"
        )
    if not found:
        raise UserError(
            f"{run}: has no eval/*/averages.json; evaluate it first: "
            f"python -m eval.run {run} --data …"
        )
    return {averages["data"]: averages for averages in found}


def of_data(run: Path, by_data: dict[str, Averages], dataset: str) -> Averages:
    """The averages on one data set, whose name compares without case.

    Raises:
        UserError: The run was not evaluated on it.
    """
    for name, averages in by_data.items():
        if name.lower() == dataset.lower():
            return averages
    raise UserError(
        f"{run}: was not evaluated on '{dataset}'{nearest(dataset, by_data)}; "
        f"it has {', '.join(by_data)}"
    )


def _ours(run: Path, averages: Averages, device: str | None) -> System:
    x = costs(read_cost(run)) if (run / "ledger.json").is_file() else {}
    measured = None if device is None else run_ms(run, device)
    x |= _predicted(run, device) if measured is None else {"latency": measured}
    y = {}
    for name, value in averages.items():
        if name not in NOT_METRICS and value is not None:
            y[name] = value
    note = f"{averages['images']} images, {averages['data']}"
    if measured is not None:
        note += f"; latency measured on {device}"
    knobs = _knobs(run, averages)
    return System(run.name, True, x, y, note, run, knobs, on_device=measured is not None)


def _knobs(run: Path, averages: Averages) -> dict[str, tuple[dict[str, float], ...]]:
    """The evaluations of these averages at several strengths, as far as there are some."""
    found = {}
    for file in sorted(run.glob("eval/*/averages.json")):
        if read_averages(file.parent)["data"] != averages["data"]:
            continue
        for knob in KNOBS:
            rows = read_strengths(file.parent, knob)
            if rows and knob not in found:
                found[knob] = tuple(sorted(rows, key=lambda row: row["strength"]))
    return found


def _predicted(run: Path, device: str | None) -> dict[str, float]:
    """{"latency": ms} by the device's published rates, of the run's structure."""
    if device not in rates() or not (run / "model.safetensors").is_file():
        return {}
    from compress.recipe.checkpoint import read_structure

    model = read_structure(run)[2]
    return {"latency": next(p.ms for p in predict(measure(model)) if p.device == device)}


def _label(run: Path, averages: Averages) -> str:
    """The run's name, with the number of images where a part of a known benchmark was taken."""
    of_hub = hub_name(run)
    name = run.resolve().name if of_hub is None else of_hub.label
    full = full_count(averages["data"], averages["protocol"])
    if full is None or full == averages["images"]:
        return name
    return f"{name} ({averages['images']} of {full} images)"


def published_systems(dataset: str, protocol: str, device: str | None = None) -> list[System]:
    """Every published system of a data set and protocol.

    Args:
        dataset: The data set.
        protocol: The protocol.
        device: The device whose latency is looked up as well.
    """
    systems = []
    for model, y in published.systems(dataset, protocol).items():
        codes = published.sources(model, dataset, protocol) or ["C"]
        note = "source " + ", ".join(codes)
        systems.append(System(model, False, _published_costs(model, device), y, note))
    return systems


def _published_costs(model: str, device: str | None) -> dict[str, float]:
    """What was printed of a system's cost, by axis."""
    found: dict[str, float | None] = {}
    for name, axis in AXES.items():
        belongs = not (axis.counts and published.scaled(model))
        if axis.column is not None and belongs:
            found[name] = published.cost(model, axis.column)
    if device is not None:
        found["latency"] = published.latency(model, device)
    return {name: value for name, value in found.items() if value is not None}


def _check_device(device: str | None, runs: list[Path]) -> None:
    """Raise UserError for a device that nothing is known of, also by a profile of these runs."""
    measured = [name for run in runs for name in devices_of(run)]
    devices = list(dict.fromkeys([*rates(), *published.devices(), *measured]))
    if device is not None and device not in devices:
        raise UserError(
            f"device '{device}' is unknown{nearest(device, devices)}; "
            f"choose from {', '.join(devices)}"
        )


def _common(found: dict[Path, dict[str, Averages]]) -> str:
    """The one data set that all runs share."""
    shared = set.intersection(*(set(by_data) for by_data in found.values()))
    if len(shared) != 1:
        each = "; ".join(f"{run.name}: {', '.join(by_data)}" for run, by_data in found.items())
        raise UserError(
            f"the runs have {len(shared)} data sets in common ({each}); choose one with --dataset"
        )
    return shared.pop()


def _common_protocol(evaluated: dict[Path, Averages], dataset: str) -> str:
    protocols = {averages["protocol"]: run for run, averages in evaluated.items()}
    if len(protocols) > 1:
        each = ", ".join(f"{run.name}: {protocol}" for protocol, run in protocols.items())
        raise UserError(
            f"the runs were evaluated on {dataset} under different protocols ({each}), which "
            "share no axis; evaluate them alike with eval.run --protocol"
        )
    return next(iter(protocols))
