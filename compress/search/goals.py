"""What a sweep wants: objectives, which are costs or metrics, bounds of costs, lints to pass."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compress.core.errors import UserError, nearest, shown
from compress.cost.cost import Cost
from compress.cost.phones import predict, rates
from eval.metric.names import is_metric, metric_of
from export.linting.rules import load

LATENCY = "latency"
# name -> (total of compress.cost, what it is)
COSTS = {
    "size": ("param_equivalents", "fp32-equivalent parameters"),
    "params": ("params", "parameters"),
    "macs": ("macs_paper", "MACs, as the papers count"),
    "ops": ("macs_equivalent", "fp32-equivalent MACs"),
    "bytes": ("bytes", "bytes of weights, packed"),
    "memory": ("peak_activation_bytes", "bytes of the largest layer's inputs and outputs"),
    LATENCY: ("", "ms, predicted for a phone"),
}
SCALES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}
_BOUND = re.compile(r"([a-z]+)\s*<=?\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)\s*([kKMG]?)(?:B|ms)?")


_LINT = re.compile(r"lint\(\s*([\w-]+)\s*\)")


@dataclass(frozen=True)
class Objective:
    """One figure that is made as good as can be.

    Attributes:
        name: Of a cost or a metric.
        higher: Whether more of it is better.
        is_cost: Whether the plan tells it.
    """

    name: str
    higher: bool
    is_cost: bool


@dataclass(frozen=True)
class Bound:
    """The most that a cost may be."""

    name: str
    most: float
    text: str

    def excess(self, costs: Mapping[str, float]) -> float:
        """By which share of the bound a cost is beyond it; 0 where it is not."""
        return max(0.0, costs[self.name] / self.most - 1)


def parse_objectives(text: str) -> list[Objective]:
    """The objectives between commas.

    Raises:
        UserError: One is neither cost nor metric, or stands twice.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) != len(names):
        raise UserError(f"--objective {shown(text)}: give names, each once, such as bytes,lpips")
    return [_objective(name) for name in names]


def _objective(name: str) -> Objective:
    if name in COSTS:
        return Objective(name, False, True)
    if not is_metric(name):
        raise UserError(
            f"--objective '{name}' is no cost and no metric{nearest(name, COSTS)}; choose from "
            f"{', '.join(COSTS)}, or a metric of python -m eval.weights"
        )
    return Objective(name, metric_of(name).higher, False)


def parse_bounds(texts: Sequence[str]) -> list[Bound]:
    """The bounds of costs, such as `bytes<3MB`, without the lints.

    Raises:
        UserError: One has another form, or is of no cost.
    """
    return [_bound(text) for text in texts if not _LINT.fullmatch(text.strip())]


def parse_lints(texts: Sequence[str]) -> list[str]:
    """The targets whose lint is to pass, of constraints such as `lint(qnn)`.

    Raises:
        UserError: The lint has no such target.
    """
    matches = [_LINT.fullmatch(text.strip()) for text in texts]
    names = [match[1] for match in matches if match is not None]
    for name in names:
        load(name)
    return list(dict.fromkeys(names))


def _bound(text: str) -> Bound:
    match = _BOUND.fullmatch(text.strip())
    if match is None:
        raise UserError(
            f"--constraint {shown(text)}: give a cost and its most, such as bytes<3MB, or a target "
            "whose lint is to pass, such as lint(qnn)"
        )
    name, number, scale = match.groups()
    if name not in COSTS:
        raise UserError(
            f"--constraint {shown(text)}: '{name}' is no cost{nearest(name, COSTS)}; choose from "
            f"{', '.join(COSTS)}"
        )
    try:
        most = float(number) * SCALES[scale]
    except ValueError:
        raise UserError(f"--constraint {shown(text)}: '{number}' is no number") from None
    if most <= 0:
        raise UserError(f"--constraint {shown(text)}: nothing costs less than 0; give more")
    return Bound(name, most, text.strip())


def check_phone(phone: str) -> None:
    """Refuse a phone without published rates.

    Raises:
        UserError: It has none; those that have are told.
    """
    if phone not in rates():
        raise UserError(
            f"--phone '{phone}' has no published rate{nearest(phone, rates())}; choose from "
            f"{', '.join(rates())}"
        )


def costs_of(cost: Cost, phone: str) -> dict[str, float]:
    """Every cost by its name.

    Args:
        cost: Of a model, counted.
        phone: Whose latency is predicted.
    """
    totals = cost.totals()
    found = {name: float(totals[key]) for name, (key, _) in COSTS.items() if key}
    found[LATENCY] = next(one.ms for one in predict(cost) if one.device == phone)
    return found


def broken(bounds: Sequence[Bound], costs: Mapping[str, float]) -> tuple[float, str]:
    """By how much costs are beyond all bounds, and which; 0 and nothing where they are not."""
    beyond = {bound.text: bound.excess(costs) for bound in bounds}
    names = {bound.text: bound.name for bound in bounds}
    told = [
        f"{text}: it has {costs[names[text]]:,.4g}" for text, excess in beyond.items() if excess
    ]
    return sum(beyond.values()), "; ".join(told)
