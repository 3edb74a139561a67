"""The points of a curve: our runs, and the published systems of the same data set, protocol and metric."""

import json
from dataclasses import dataclass
from pathlib import Path

from compress.errors import UserError, nearest
from eval import published
from eval.metrics import METRICS

# axis: key of the ledger's cost, divisor, column of cost.csv, label
AXES = {
    "size": ("param_equivalents", 1e6, "params_m", "million fp32-equivalent parameters (parameters × bits / 32)"),
    "params": ("params", 1e6, "params_m", "million parameters"),
    "macs": ("macs_paper", 1e9, "macs_g", "GMACs (conv + linear, as the papers count)"),
}
PAPER_NAMES = {"maniqa-pipal": "maniqa"}
_NOT_METRICS = ("images", "data", "protocol", "blank")


@dataclass(frozen=True)
class Point:
    """One system: `x` in the axis' unit, `y` the metric's mean, `ours` or published."""

    label: str
    x: float
    y: float
    ours: bool


@dataclass(frozen=True)
class Selection:
    """Everything on one pair of axes; `left_out` names published systems whose size nobody printed."""

    dataset: str
    protocol: str
    metric: str
    axis: str
    points: list[Point]
    left_out: list[str]


def select(runs: list[Path], metric: str = "musiq", dataset: str | None = None, axis: str = "size") -> Selection:
    """The runs' averages and the published systems that may stand beside them.

    `dataset` may be left out where the runs have exactly one in common. Raises UserError for a run without
    evaluations, without the data set or the metric, or with another protocol than the first run's.
    """
    if axis not in AXES:
        raise UserError(f"axis '{axis}' is unknown{nearest(axis, AXES)}; choose from {', '.join(AXES)}")
    if metric not in METRICS:
        raise UserError(f"metric '{metric}' is unknown{nearest(metric, METRICS)}; choose from {', '.join(METRICS)}")
    if not runs:
        raise UserError("no run was named; give one or more run directories")
    found = {run: _averages(run) for run in runs}
    dataset = dataset or _common(found)
    points, protocols = [], {}
    for run, by_data in found.items():
        averages = _of_data(run, by_data, dataset)
        protocols[averages["protocol"]] = run
        points.append(Point(_label(run, averages), _size(run, axis), _value(run, averages, metric), True))
    if len(protocols) > 1:
        each = ", ".join(f"{run.name}: {protocol}" for protocol, run in protocols.items())
        raise UserError(f"the runs were evaluated on {dataset} under different protocols ({each}), which share no "
                        "axis; evaluate them alike with eval.run --protocol")
    protocol = next(iter(protocols))
    beside, left_out = _published(dataset, protocol, metric, axis)
    return Selection(dataset, protocol, metric, axis, points + beside, left_out)


def _published(dataset: str, protocol: str, metric: str, axis: str) -> tuple[list[Point], list[str]]:
    points, left_out = [], []
    for model, value in published.quality(dataset, protocol, PAPER_NAMES.get(metric, metric)).items():
        x = published.cost(model, AXES[axis][2])
        if x is None or (axis != "size" and model in published.BIT_SCALED):
            left_out.append(model)
        else:
            points.append(Point(model, x, value, False))
    return points, left_out


def _averages(run: Path) -> dict[str, dict]:
    """{data set: averages.json} of a run directory."""
    if not run.is_dir():
        raise UserError(f"{run}: no such run directory")
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(run.glob("eval/*/averages.json"))]
    if not found:
        raise UserError(f"{run}: has no eval/*/averages.json; evaluate it first: python -m eval.run {run} --data …")
    return {averages["data"]: averages for averages in found}


def _common(found: dict[Path, dict[str, dict]]) -> str:
    shared = set.intersection(*(set(by_data) for by_data in found.values()))
    if len(shared) != 1:
        each = "; ".join(f"{run.name}: {', '.join(by_data)}" for run, by_data in found.items())
        raise UserError(f"the runs have {len(shared)} data sets in common ({each}); choose one with --dataset")
    return shared.pop()


def _of_data(run: Path, by_data: dict[str, dict], dataset: str) -> dict:
    for name, averages in by_data.items():
        if name.lower() == dataset.lower():
            return averages
    raise UserError(f"{run}: was not evaluated on '{dataset}'{nearest(dataset, by_data)}; it has {', '.join(by_data)}")


def _value(run: Path, averages: dict, metric: str) -> float:
    if averages.get(metric) is None:
        has = [name for name, value in averages.items() if name not in _NOT_METRICS and value is not None]
        why = f" ({averages['blank'][metric]})" if metric in averages["blank"] else ""
        raise UserError(f"{run}: has no {metric} on {averages['data']}{why}; it has {', '.join(has) or 'none'}: "
                        "choose one of these with --metric, or evaluate again")
    return averages[metric]


def _size(run: Path, axis: str) -> float:
    key, divisor, _, _ = AXES[axis]
    path = run / "ledger.json"
    if not path.is_file():
        raise UserError(f"{run}: has no ledger.json, so its size is unknown; give a finished run directory")
    cost = json.loads(path.read_text(encoding="utf-8")).get("cost", {}).get("after", {})
    if not cost.get(key):
        raise UserError(f"{path}: has no cost.after.{key}, which --x {axis} draws; it has {', '.join(cost) or 'none'}")
    return cost[key] / divisor


def _label(run: Path, averages: dict) -> str:
    """The run's name, with the number of images where a part of a known benchmark was taken."""
    whole = {("RealSR", "crop"): 100, ("DRealSR", "crop"): 93, ("DIV2K", "crop"): 3000}
    full = whole.get((averages["data"], averages["protocol"]))
    name = run.resolve().name
    return name if full in (None, averages["images"]) else f"{name} ({averages['images']} of {full} images)"
