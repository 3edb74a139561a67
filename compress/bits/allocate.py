"""Bits per layer under a budget: what every width of every layer costs, and the integer program that chooses.

The errors that single layers cause are taken to add up, as independent noises do; MixDQ (arXiv 2405.17873) rests on the
same. The sum of bytes is exact: it is what compress/cost/count.py counts of the model that results, weights packed at their
bit width. The sum of milliseconds is *predicted* (compress/cost/phones.py).
"""

import re
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from compress.core.errors import UserError
from compress.cost import phones
from compress.cost.count import Cost, measure
from compress.model.passes import Pass
from compress.model.source import Source
from compress.passes.quantize import Quantize, Width
from compress.quant.affine import BITS
from compress.recipe.checkpoint import convert_all

UNITS = {"MB": 1e6, "KB": 1e3, "ms": 1.0}


@dataclass(frozen=True)
class Budget:
    """At most `amount` bytes (unit `MB` or `KB`), or predicted ms on a phone (unit `ms`)."""

    amount: float
    unit: str

    @property
    def limit(self) -> float:
        return self.amount * UNITS[self.unit]

    def __str__(self) -> str:
        return f"{self.amount:g}{self.unit}"


def parse_budget(text: str) -> Budget:
    """'2.1MB', '850KB' or '12ms'."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(MB|KB|ms)", text)
    if not match:
        raise UserError(
            f"--budget '{text}' is none; write a size like 2.1MB or 850KB, or a predicted latency like "
            "12ms"
        )
    return Budget(float(match[1]), match[2])


def parse_width(text: str) -> Width:
    """'6' is 6 bits for weights and input, as in `pins`; 'w4a8' says them apart."""
    match = re.fullmatch(r"(\d+)|[wW](\d+)[aA](\d+)", text)
    weights, activations = (
        (int(match[1] or match[2]), int(match[1] or match[3])) if match else (0, 0)
    )
    if not {weights, activations} <= set(BITS):
        raise UserError(
            f"--bits '{text}' is no width; write one of {', '.join(map(str, BITS))}, or weights and "
            "activations apart, like w4a8"
        )
    return Width(weights=weights, activations=activations)


def name_of(width: Width) -> str:
    return f"W{width.weights}A{width.activations}"


def everywhere(step: Quantize, width: Width) -> Quantize:
    """`step` with every layer at `width`, the doors and the pins of the config too."""
    return step.model_copy(update={"weights": 8, "activations": 8, "pins": {"*": width}})


def pinned(step: Quantize, chosen: dict[str, Width]) -> Quantize:
    """`step` with the layers of `chosen` at their widths. The rest keeps its activations' bits."""
    default = {"weights": 8, "activations": max(8, step.activations)}
    pins = {name: width for name, width in chosen.items() if width != Width(**default)}
    return step.model_copy(update=default | {"pins": pins})


def share(cost: Cost, layer: str) -> Cost:
    """What belongs to one layer: itself, the halves of a split one, their quantisers."""
    return Cost(cost.lr_size, tuple(x for x in cost.layers if f"{x.name}.".startswith(f"{layer}.")))


def predicted_ms(cost: Cost, device: str) -> float:
    rates = phones.rates()
    if device not in rates:
        raise UserError(
            f"--device '{device}' has no published rate; choose one of {', '.join(rates)}"
        )
    return sum(
        count / rates[device][kind].gmacs_per_ms
        for kind, count in phones.gmacs_by_precision(cost).items()
    )


def amounts(
    source: Source,
    before: list[Pass],
    step: Quantize,
    layers: list[str],
    widths: list[Width],
    budget: Budget,
    device: str,
) -> tuple[np.ndarray, float]:
    """[layers, widths]: bytes or predicted ms of every layer at every width; and those of all the rest."""
    table = np.zeros((len(layers), len(widths)))
    rest = 0.0
    for column, width in enumerate(widths):
        cost = measure(convert_all(source, [*before, everywhere(step, width)]))
        of = (lambda c: predicted_ms(c, device)) if budget.unit == "ms" else (lambda c: c.bytes)
        table[:, column] = [of(share(cost, layer)) for layer in layers]
        rest = max(rest, of(cost) - table[:, column].sum())
    return table, rest


def choose(errors: np.ndarray, costs: np.ndarray, limit: float) -> np.ndarray:
    """[layers]: the column of each layer's width, of the least sum of `errors` with a sum of `costs` up to `limit`.

    Both are [layers, widths]. Raises UserError where even the cheapest widths exceed the limit.
    """
    least = costs.min(axis=1).sum()
    if least > limit:
        raise UserError(
            "the budget is below what the cheapest widths need, by a factor of "
            f"{least / max(limit, 1e-12):.3f}; raise it, or offer narrower ones with --bits"
        )
    layers, widths = errors.shape
    # Scaled, because the solver's tolerances are absolute and errors are of the order of 1e-6.
    objective, weight = (
        errors.ravel() / max(np.abs(errors).max(), 1e-30),
        costs.ravel() / max(limit, 1e-12),
    )
    one_each = LinearConstraint(np.kron(np.eye(layers), np.ones(widths)), 1, 1)
    solved = milp(
        objective,
        constraints=[one_each, LinearConstraint(weight[None], -np.inf, 1)],
        integrality=np.ones(layers * widths),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 1e-6, "time_limit": 60},
    )
    if solved.x is None:
        raise UserError(
            f"the integer program found no solution in 60 s ({solved.message}); choose another --budget"
        )
    return solved.x.reshape(layers, widths).argmax(axis=1)
