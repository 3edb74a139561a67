"""What a step gains, by several metrics at once: AdaDiffSR's information gain (arXiv 2410.17752).

    R_i = sum_c w_c M_c        I_i = tanh(R_i - R_(i-1))                                   [doc]
    M_c = clip((v - lo) / (hi - lo), 0, 1), and 1 - that where lower is better             [REC]

[doc] marks what the paper says, [REC] our choice where it is silent. The metrics come in two parts
with a gain each, because the rules of skipping need both: those that compare with the input (FR),
and those of the image alone (NR), which are taken in the second half of the steps only [doc]. A sum
over both parts is no sum of their gains: tanh is not linear.

A router has one metric and paths in the place of steps; its gains are the same tanh.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch


def gain(after: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """I, in -1 to 1, of what has the quality `before` and then `after` [doc]."""
    return (after - before).tanh()


@dataclass(frozen=True)
class Term:
    """One metric of R.

    Attributes:
        weight: w_c [REC: 1/4 for each of four FR metrics, 1/2 for each of two NR metrics].
        low: The value that counts 0 where higher is better [REC: the 1st percentile in training].
        high: The value that counts 1 there [REC: the 99th percentile].
        higher: Whether higher is better.
        reference: Whether it compares with the input.
    """

    weight: float
    low: float
    high: float
    higher: bool
    reference: bool

    def normalised(self, value: torch.Tensor) -> torch.Tensor:
        """M_c in 0 to 1, larger for better [REC]."""
        share = ((value - self.low) / (self.high - self.low)).clamp(0, 1)
        return share if self.higher else 1 - share


@dataclass(frozen=True)
class Information:
    """The metrics of R, by their names, in the order in which a regressor predicts them."""

    terms: Mapping[str, Term]

    def normalised(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """M of each metric's value."""
        return {name: term.normalised(values[name]) for name, term in self.terms.items()}

    def quality(self, values: Mapping[str, torch.Tensor], reference: bool) -> torch.Tensor:
        """R of one part: of the metrics that compare with the input, or of the others."""
        return self._sum(self.normalised(values), reference)

    def weights(self) -> torch.Tensor:
        """w_c of both parts, FR and NR, 0 for a metric of the other part: float64 [2, metrics]."""
        rows = []
        for reference in (True, False):
            terms = self.terms.values()
            rows.append([term.weight * (term.reference == reference) for term in terms])
        return torch.tensor(rows, dtype=torch.float64)

    def _sum(self, values: Mapping[str, torch.Tensor], reference: bool) -> torch.Tensor:
        some = next(iter(values.values()))
        total = torch.zeros_like(some)
        for name, term in self.terms.items():
            if term.reference == reference:
                total = total + term.weight * values[name]
        return total


def part_gains(differences: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The gains of both parts, FR and NR [doc]; 0 where a part has no metric.

    Args:
        differences: M less M of the state before, [B, metrics].
        weights: w_c of the two parts, [2, metrics].

    Returns:
        [B, 2].
    """
    return (differences @ weights.T.to(differences)).tanh()


def percentiles(values: Iterable[float]) -> tuple[float, float]:
    """The 1st and 99th percentile of a metric over the training's states [REC].

    Raises:
        ValueError: The metric is the same everywhere.
    """
    found = torch.tensor(list(values), dtype=torch.float64)
    low, high = torch.quantile(found, torch.tensor([0.01, 0.99], dtype=torch.float64)).tolist()
    if not high > low:
        raise ValueError("a metric that is the same everywhere tells no step from another")
    return low, high
