"""Sweeps over the embedded models: fronts, thresholds, and claims of a survey held against them."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from compress.core.json_files import read_json
from compress.search.answer import Study, read_study
from compress.search.snapshot import Ended
from eval.metric.names import metric_of
from eval.results.measurement import Column, Finished, Job, Measurement, Row, Short
from eval.results.measurements.evaluated import averages, counts
from eval.results.provenance import ROOT
from eval.results.weights import NANO

IMAGES = 25  # of RealSR, for each point
METRICS = ("psnr", "ssim", "lpips-squeeze", "gmsd")
FIDELITY, PERCEPTION = "psnr", "lpips-squeeze"
M = 1e6
# What counts as nearly free: the change of a metric to the source's, whichever way is worse.
FREE = {FIDELITY: 0.2, PERCEPTION: 0.01}


class Sweep(NamedTuple):
    """One study: the recipe's name, the source's family, points, and what varies."""

    name: str
    family: str
    trials: int
    varies: tuple[str, ...]


# What is in one bit is not quantised, and only that is packed.
STUDIES = (
    Sweep(
        "osediff_nano",
        "osediff",
        96,
        (
            *("passes.1=on,off", "passes.1.ratio=0.3:0.9", "passes.2=on,off"),
            *("passes.2.ratio=0.4:0.95", "passes.3=on,off", "passes.4=off,on"),
            *("passes.4.rank=2:16", "passes.6=off if passes.4=off", "passes.7=on,off"),
            *("passes.7.weights=4,6,8", "passes.7.components=[encoder, decoder] if passes.4=on"),
        ),
    ),
    Sweep(
        "adcsr_nano",
        "adcsr",
        64,
        (
            *("passes.0=on,off", "passes.0.ratio=0.4:0.95", "passes.1=on,off"),
            *("passes.2=off,on", "passes.2.rank=2:16", "passes.4=off if passes.2=off"),
            *("passes.5=on,off", "passes.5.weights=4,6,8"),
            "passes.5.components=[decoder] if passes.2=on",
        ),
    ),
    Sweep(
        "edge_nano",
        "edge_sd_sr",
        64,
        (
            *("passes.1=on,off", "passes.1.ratio=0.4:0.95", "passes.2=off,on"),
            *("passes.2.rank=2:16", "passes.4=off if passes.2=off", "passes.5=on,off"),
            *("passes.5.weights=4,6,8", "passes.5.components=[encoder, decoder] if passes.2=on"),
        ),
    ),
)
TRAINED = {"osediff_nano": 5, "adcsr_nano": 3, "edge_nano": 3}  # places of `distill`


def sweeps(short: Short) -> list[Job]:
    """A job for each embedded model: its study, what the study says, and the source as it is."""
    return [_job(one, short) for one in STUDIES]


def _job(planned: Sweep, short: Short) -> Job:
    name, family, trials, varies = planned
    recipe = f"recipes/sweep/{name}.yaml"
    images = IMAGES if short.limit is None else short.limit
    metrics = ",".join(METRICS)
    evaluated = f"eval={{data: [{{name: realsr, path: {{realsr}}}}], metrics: [{metrics}],"
    evaluated += f" limit: {images}, iqa_weights: {{iqa_weights}}}}"
    steps = [] if short.steps is None else [f"passes.{TRAINED[name]}.steps={short.steps}"]
    count = trials if short.limit is None else max(2, short.limit)
    sweep = (
        *("python", "-m", "compress.sweep", recipe, *varies, *steps, evaluated),
        *("--objective", f"bytes,{PERCEPTION},{FIDELITY}", "--study", "{out}/study"),
        *("--trials", str(count), "--proxy", "2", "--cache", "{out}/passes", "--workers", "2"),
    )
    front = ("python", "-m", "eval.front", "{out}/study", "-o", "{out}/front")
    source = (
        *("python", "-m", "eval.run", NANO[family], "--data", "realsr={realsr}"),
        *("--metrics", metrics, "--iqa-weights", "{iqa_weights}", "--limit", str(images)),
        *("--cache", "{out}/scores.sqlite", "-o", "{out}/source"),
    )
    tidy = (
        *("python", "-m", "compress.cache", "prune", "--max-size", "100MB"),
        *("--cache", "{out}/passes"),
    )
    return Job(
        name,
        (sweep, front, source, tidy),
        partial(read_sweep, name, ROOT / NANO[family]),
        inputs=(NANO[family], recipe),
    )


def read_sweep(name: str, weights: Path, finished: Finished) -> list[Row]:
    """Rows of one model: the study, its thresholds, and each claim with its verdict."""
    study = read_study(finished.out / "study")
    file = finished.out / "front" / "front.json"
    [said] = read_json(file, "what a study says", dict, "measure again")["studies"]
    source = averages(finished.out / "source")
    before = {metric: float(value) for metric in METRICS if (value := source.get(metric))}
    size = float(counts(weights)["megabytes"] or 0) * M
    rows = [_row("points", f"{said['measured']} measured of {said['ended']}", len(study.front))]
    rows[0]["figures"] = f"{len(study.front)} on the front"
    rows += [_threshold(metric, said["metrics"][metric]["threshold"]) for metric in METRICS]
    for claim, check in CLAIMS.items():
        verdict, figures = check(study, said, size, before)
        rows.append(_row(claim, verdict, figures))
    return [{"model": f"`{name}`", **row} for row in rows]


def _row(question: str, answer: str, figures: Any) -> Row:
    return {"question": question, "answer": answer, "figures": str(figures)}


def _threshold(metric: str, found: dict[str, Any]) -> Row:
    if found["size"] is None:
        return _row(f"threshold of {metric}", "none", found["why_none"])
    return _row(
        f"threshold of {metric}",
        f"{found['size'] / M:.2f} MB ({found['low'] / M:.2f} to {found['high'] / M:.2f})",
        f"per halving {found['above']:+.4f} above, {found['below']:+.4f} below",
    )


Figures = dict[str, float]
Claim = Callable[[Study, dict[str, Any], float, Figures], tuple[str, str]]
CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "not decided"


def _lost(metric: str, value: float, before: Figures) -> float:
    """By how much a metric is worse than the source's; below 0 where it is better."""
    sign = 1 if metric_of(metric).higher else -1
    return sign * (before[metric] - value)


def _best(points: Sequence[Ended], metric: str) -> float:
    values = [point.figures[metric] for point in points]
    return max(values) if metric_of(metric).higher else min(values)


def nearly_free(study: Study, _: dict[str, Any], size: float, before: Figures) -> tuple[str, str]:
    """Whether the best point of 4 to 6 times fewer bytes loses next to nothing."""
    near = [point for point in study.points if 4 <= size / point.figures["bytes"] <= 6]
    if not near:
        return UNDECIDED, "no point has a fourth to a sixth of the bytes"
    lost = {metric: _lost(metric, _best(near, metric), before) for metric in FREE}
    verdict = CONFIRMED if all(lost[metric] <= FREE[metric] for metric in FREE) else REFUTED
    return verdict, (
        f"the best of {len(near)} points loses {lost[FIDELITY]:.3f} dB PSNR and "
        f"{lost[PERCEPTION]:.4f} LPIPS"
    )


def perception_first(_: Study, said: dict[str, Any], size: float, __: Figures) -> tuple[str, str]:
    """Whether LPIPS has its threshold at a larger size than PSNR, intervals apart."""
    fidelity = said["metrics"][FIDELITY]["threshold"]
    perception = said["metrics"][PERCEPTION]["threshold"]
    if fidelity["size"] is None or perception["size"] is None:
        return UNDECIDED, "one of both has no threshold"
    figures = (
        f"LPIPS falls from {size / perception['size']:.1f}× on, PSNR from "
        f"{size / fidelity['size']:.1f}×"
    )
    if perception["low"] > fidelity["high"]:
        return CONFIRMED, figures
    return (REFUTED if perception["high"] < fidelity["low"] else UNDECIDED), figures


def they_add_up(_: Study, said: dict[str, Any], __: float, ___: Figures) -> tuple[str, str]:
    """Whether one combination is smaller and better than every point of each single technique."""
    shares: dict[str, list[float]] = {}
    for metric in (FIDELITY, PERCEPTION):
        for row in said["metrics"][metric]["beaten"]:
            shares.setdefault(row["combination"], []).append(row["share"])
    if not shares:
        return UNDECIDED, "no point combines techniques, or none has one alone"
    name, least = max(((name, min(each)) for name, each in shares.items()), key=lambda one: one[1])
    figures = f"{name} beats {100 * least:.0f}% at least of each single technique's points"
    return (CONFIRMED if least == 1 else REFUTED), figures


def decoder_first(study: Study, _: dict[str, Any], __: float, before: Figures) -> tuple[str, str]:
    """Whether a cut decoder loses least LPIPS for each share of the MACs that it saves."""
    whole = max(point.figures["macs"] for point in study.points)
    rates = {}
    for group in study.groups:
        if group.name in ("decoder", "prune", "depth"):
            each = [
                _lost(PERCEPTION, point.figures[PERCEPTION], before)
                / max(1e-6, 1 - point.figures["macs"] / whole)
                for point in group.points
            ]
            rates[group.name] = sum(each) / len(each)
    if "decoder" not in rates or len(rates) < 2:
        return UNDECIDED, "too few points have one of these techniques alone"
    told = ", ".join(f"{name} {rate:+.4f}" for name, rate in rates.items())
    verdict = CONFIRMED if min(rates, key=lambda name: rates[name]) == "decoder" else REFUTED
    return verdict, f"LPIPS for all of the MACs: {told}"


CLAIMS: dict[str, Claim] = {
    "4 to 6 times smaller is nearly free": nearly_free,
    "perception falls before fidelity": perception_first,
    "the ways of compressing add up": they_add_up,
    "the decoder goes first": decoder_first,
}
SWEEP = Measurement(
    name="sweep",
    title="Sweeps over the nano models: thresholds, and claims of a survey",
    page="sweep",
    jobs=sweeps,
    columns=(
        Column("model", "model"),
        Column("question", "question"),
        Column("answer", "answer"),
        Column("figures", "figures"),
    ),
    needs=("realsr", "iqa_weights"),
    packages=("optuna",),
    hours=12,
)
