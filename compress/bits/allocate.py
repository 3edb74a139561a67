"""Bits per layer under a budget: what every width of every layer costs, and the choice.

The errors that single layers cause are taken to add up, as independent noises do; MixDQ (arXiv
2405.17873) rests on the same. The sum of bytes is exact: it is what compress/cost/count.py counts
of the model that results, weights packed at their bit width. The sum of milliseconds is *predicted*
(compress/cost/phones.py).
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp

from compress.bits.measure import decibels, measure_together
from compress.bits.subject import Subject
from compress.bits.widths import Budget, everywhere, name_of, pinned
from compress.core.errors import UserError
from compress.cost import phones
from compress.cost.cost import Cost
from compress.cost.count import measure
from compress.passes.quantize import Quantize, Width
from compress.recipe.checkpoint import convert_all

LEAST_LIMIT = 1e-12  # in place of a budget of 0, to divide by
LEAST_ERROR = 1e-30  # in place of errors that are all 0, to divide by
GAP = 1e-6  # how far from the best the program's solution may be, as a share
TIME_LIMIT_S = 60


@dataclass(frozen=True)
class Goal:
    """What widths are chosen for.

    Attributes:
        budget: What the model may take.
        device: The phone of a budget in ms.
        metric: What is best within the budget: "psnr" or "lpips".
    """

    budget: Budget
    device: str
    metric: str

    def amount_of(self, cost: Cost) -> float:
        """Bytes or predicted ms of a model or a part of it, by the unit of the budget."""
        if self.budget.unit == "ms":
            return predicted_ms(cost, self.device)
        return cost.bytes


@dataclass(frozen=True)
class Choice:
    """Bits per layer.

    Attributes:
        step: The quantize pass that has them as pins.
        widths: The width of every layer.
        amount: Bytes or predicted ms of the whole model.
        predicted: What the sum of single errors says, in dB.
        measured: The metrics with all layers quantised at once.
    """

    step: Quantize
    widths: dict[str, Width]
    amount: float
    predicted: float
    measured: dict[str, float]


def allocate(
    subject: Subject,
    rows: list[dict],
    widths: list[Width],
    goal: Goal,
    images: list[torch.Tensor],
    weights: str | None,
) -> Choice:
    """The widths of the least summed error within a budget.

    Args:
        subject: What was measured.
        rows: From `measure_layers`, for all of `widths`.
        widths: What every layer may have.
        goal: Budget and metric.
        images: Low-resolution images [1, 3, h, w] in [0, 1], for all layers together.
        weights: A file with the weights of LPIPS, to measure that as well.

    Raises:
        UserError: Even the cheapest widths exceed the budget.
    """
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    row_of = {(row["layer"], row["width"]): row for row in rows}
    column = "mse" if goal.metric == "psnr" else goal.metric
    errors = np.zeros((len(layers), len(widths)))
    for index, layer in enumerate(layers):
        errors[index] = [row_of[layer, name_of(width)][column] for width in widths]
    costs, rest = amounts(subject, layers, widths, goal)
    picked = choose(errors, costs, goal.budget.limit - rest)
    chosen = {layer: widths[number] for layer, number in zip(layers, picked, strict=True)}
    step = pinned(subject.step, chosen)
    cost = measure(convert_all(subject.source, [*subject.before, step]))
    mse = sum(row_of[layer, name_of(width)]["mse"] for layer, width in chosen.items())
    together = measure_together(subject, images, step, weights)
    return Choice(step, chosen, goal.amount_of(cost), decibels(mse), together)


def share(cost: Cost, layer: str) -> Cost:
    """What belongs to one layer: itself, the halves of a split one, their quantisers."""
    own = [entry for entry in cost.layers if f"{entry.name}.".startswith(f"{layer}.")]
    return Cost(cost.lr_size, tuple(own))


def predicted_ms(cost: Cost, device: str) -> float:
    """Predicted latency on a phone in ms.

    Raises:
        UserError: The device has no published rate.
    """
    rates = phones.rates()
    if device not in rates:
        raise UserError(
            f"--device '{device}' has no published rate; choose one of {', '.join(rates)}"
        )
    total = 0.0
    for precision, count in phones.gmacs_by_precision(cost).items():
        total += count / rates[device][precision].gmacs_per_ms
    return total


def amounts(
    subject: Subject, layers: list[str], widths: list[Width], goal: Goal
) -> tuple[np.ndarray, float]:
    """Bytes or predicted ms of every layer at every width.

    Returns:
        A table [layers, widths], and the amount of all the rest of the model.
    """
    table = np.zeros((len(layers), len(widths)))
    rest = 0.0
    for column, width in enumerate(widths):
        step = everywhere(subject.step, width)
        cost = measure(convert_all(subject.source, [*subject.before, step]))
        table[:, column] = [goal.amount_of(share(cost, layer)) for layer in layers]
        rest = max(rest, goal.amount_of(cost) - table[:, column].sum())
    return table, rest


def choose(errors: np.ndarray, costs: np.ndarray, limit: float) -> np.ndarray:
    """The column of each layer's width, of the least sum of errors within the limit.

    Args:
        errors: [layers, widths].
        costs: [layers, widths].
        limit: What the sum of costs may be.

    Returns:
        int64 [layers].

    Raises:
        UserError: Even the cheapest widths exceed the limit.
    """
    least = costs.min(axis=1).sum()
    if least > limit:
        raise UserError(
            "the budget is below what the cheapest widths need, by a factor of "
            f"{least / max(limit, LEAST_LIMIT):.3f}; raise it, or offer narrower ones with --bits"
        )
    layers, widths = errors.shape
    # Scaled, because the solver's tolerances are absolute and errors are of the order of 1e-6.
    objective = errors.ravel() / max(np.abs(errors).max(), LEAST_ERROR)
    weight = costs.ravel() / max(limit, LEAST_LIMIT)
    one_each = LinearConstraint(np.kron(np.eye(layers), np.ones(widths)), 1, 1)
    within = LinearConstraint(weight[None], -np.inf, 1)
    solved = milp(
        objective,
        constraints=[one_each, within],
        integrality=np.ones(layers * widths),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": GAP, "time_limit": TIME_LIMIT_S},
    )
    if solved.x is None:
        raise UserError(
            f"the integer program found no solution in {TIME_LIMIT_S} s ({solved.message}); choose "
            "another --budget"
        )
    return solved.x.reshape(layers, widths).argmax(axis=1)
