"""Adaptive steps against the same number everywhere, on photographs with their originals."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from tqdm import tqdm

from compress.cost.count import measure, measure_module
from compress.model.sr_model import SRModel
from compress.process.contract import Process
from compress.routing.adaptive import REGRESSOR, AdaptiveSteps, adaptive_process
from compress.routing.comparing import Photograph, psnr
from compress.routing.step_networks import StepRegressor

EQUAL = 0.005  # LPIPS within which results count as equally good
SIDE = 128  # LR pixels at which MACs are counted
Row = dict[str, float]


@dataclass(frozen=True)
class StepCosts:
    """Paper MACs at 128 -> 512.

    Attributes:
        fixed: Of what runs once.
        call: Of one call of the networks of a step.
        regressor: Of one prediction of gains.
    """

    fixed: int
    call: int
    regressor: int

    def of(self, calls: float, predictions: float) -> float:
        """Of a walk."""
        return self.fixed + calls * self.call + predictions * self.regressor


def step_costs(model: SRModel, chain: Process) -> StepCosts:
    """What a walk costs, by its calls; the model's process is changed meanwhile.

    Args:
        model: With a regressor; its values are not read.
        chain: The process of the source.
    """
    before = model.process
    side = -(-SIDE // model.multiple) * model.multiple
    try:
        totals = []
        for calls in (1, 2):
            model.put_process(AdaptiveSteps(chain, calls=calls))
            totals.append(measure(model, (side, side)).macs_paper)
    finally:
        model.put_process(before)
    call = totals[1] - totals[0]
    regressor: StepRegressor = model.component(REGRESSOR, "comparing steps")
    latent = int(side * model.latent_ratio)
    state = torch.empty(1, regressor.channels, latent, latent, device="meta")
    told = torch.empty(1, dtype=torch.int64, device="meta")
    cost = measure_module(regressor, state, state, state, told, name=REGRESSOR)
    return StepCosts(totals[0] - call, call, cost.macs_paper)


@torch.no_grad()
def compare_steps(
    model: SRModel,
    photographs: Sequence[Photograph],
    lpips: nn.Module | None,
    calls: Sequence[int] | None = None,
) -> dict[str, Row]:
    """Means over the images of even steps by their number, and of adaptive ones.

    Args:
        model: With adaptive steps.
        photographs: What is upscaled.
        lpips: Maps two images to a distance; None leaves it out.
        calls: Numbers of even calls; None for all that the chain has.

    Returns:
        By way, "2 calls" and so on and "adaptive": "calls" of a tile, "gmacs" at 128 -> 512, "psnr"
        in dB, "lpips".

    Raises:
        TypeError: The model has no adaptive steps.
    """
    adaptive = adaptive_process(model)
    chain = adaptive.chain
    costs = step_costs(model, chain)
    counts = list(calls or range(1, adaptive.ladder.places + 1))
    ways = {f"{count} calls": AdaptiveSteps(chain, calls=count) for count in counts}
    ways["adaptive"] = adaptive
    rows: dict[str, list[Row]] = {way: [] for way in ways}
    for photograph in tqdm(photographs, desc="skip eval"):
        for way, process in ways.items():
            model.put_process(process)
            process.walks.clear()
            image = model(photograph.lr)
            mean = sum(map(len, process.walks)) / len(process.walks)
            predictions = mean - 1 if way == "adaptive" else 0
            row = {
                "calls": mean,
                "gmacs": costs.of(mean, predictions) / 1e9,
                "psnr": psnr(image, photograph.hr),
            }
            if lpips is not None:
                row["lpips"] = lpips(image, photograph.hr).item()
            rows[way].append(row)
    model.put_process(adaptive)
    return {way: _mean(found) for way, found in rows.items()}


def _mean(rows: Sequence[Row]) -> Row:
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def against_even(figures: dict[str, Row]) -> Row:
    """Adaptive steps against even ones, of what `compare_steps` gives.

    Returns:
        "psnr_more" and "lpips_more" of adaptive steps over even ones of as many MACs, which lie
        between two neighbours; with LPIPS "macs_of_even": MACs of adaptive steps by those of the
        cheapest even ones that are as good within EQUAL, 0 where none are.
    """
    adaptive = figures["adaptive"]
    even = sorted((row for way, row in figures.items() if way != "adaptive"), key=_by_macs)
    found: Row = {}
    for key in ("psnr", "lpips"):
        if key in adaptive:
            found[f"{key}_more"] = adaptive[key] - _between(even, adaptive["gmacs"], key)
    if "lpips" in adaptive:
        good = [row["gmacs"] for row in even if row["lpips"] <= adaptive["lpips"] + EQUAL]
        found["macs_of_even"] = adaptive["gmacs"] / good[0] if good else 0.0
    return found


def _by_macs(row: Row) -> float:
    return row["gmacs"]


def _between(even: Sequence[Row], gmacs: float, key: str) -> float:
    """A figure of even steps at that many MACs, by a line between the neighbours."""
    low = [row for row in even if row["gmacs"] <= gmacs]
    high = [row for row in even if row["gmacs"] > gmacs]
    if not low or not high:
        return (high[0] if high else low[-1])[key]
    first, second = low[-1], high[0]
    share = (gmacs - first["gmacs"]) / (second["gmacs"] - first["gmacs"])
    return first[key] + share * (second[key] - first[key])


def table(figures: dict[str, Row]) -> str:
    """The means as text for a terminal."""
    lines = [f"{'':<12}{'calls':>7}{'GMACs':>9}{'PSNR':>8}{'LPIPS':>9}"]
    for way, row in figures.items():
        lpips = f"{row['lpips']:9.4f}" if "lpips" in row else f"{'-':>9}"
        lines.append(f"{way:<12}{row['calls']:7.2f}{row['gmacs']:9.2f}{row['psnr']:8.2f}{lpips}")
    beside = against_even(figures)
    words = [f"PSNR {beside['psnr_more']:+.2f} dB"]
    if "lpips_more" in beside:
        words.append(f"LPIPS {beside['lpips_more']:+.4f}")
    lines.append(f"adaptive against even steps of as many MACs: {', '.join(words)}")
    return "\n".join(lines)
