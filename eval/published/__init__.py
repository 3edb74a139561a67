"""Figures printed in papers, as data: quality, cost, latency, the NTIRE scorecard.

README.md beside this file has sources and protocols.
"""

import csv
from functools import cache
from pathlib import Path

# Column of quality.csv -> our name of the metric. The papers' LPIPS is AlexNet's, their PSNR and
# SSIM are on luma.
METRICS = {
    "psnr": "psnr",
    "ssim": "ssim",
    "lpips": "lpips",
    "dists": "dists",
    "niqe": "niqe",
    "musiq": "musiq",
    "maniqa": "maniqa-pipal",
    "clipiqa": "clipiqa",
    "fid": "fid",
    "lpips_squeeze": "lpips-squeeze",
}
NTIRE = ("NTIRE2026-Mobile", "full")  # data set and protocol of ntire2026.csv


@cache
def rows(table: str) -> tuple[dict[str, str], ...]:
    """The rows of one table; every cell a string, "" where none is printed.

    Args:
        table: `quality`, `cost`, `latency`, `ntire2026` or `sources`.
    """
    with Path(__file__).with_name(f"{table}.csv").open(encoding="utf-8", newline="") as stream:
        return tuple(csv.DictReader(stream))


def systems(dataset: str, protocol: str) -> dict[str, dict[str, float]]:
    """What was printed on one data set under one protocol.

    Where two sources print the same cell, the first one counts.

    Args:
        dataset: A published name, such as "RealSR", in any case.
        protocol: Such as "crop".

    Returns:
        {model: {metric: value}}, metrics by our names.
    """
    found: dict[str, dict[str, float]] = {}
    for row in _quality_rows(dataset, protocol):
        found[row["model"]] = _figures(row) | found.get(row["model"], {})
    if (dataset.lower(), protocol) == (NTIRE[0].lower(), NTIRE[1]):
        for row in rows("ntire2026"):
            found[row["team"]] = {
                **_figures(row),
                "ntire-score": float(row["score"]),
                "ntire-final": float(row["final"]),
            }
    return found


def _quality_rows(dataset: str, protocol: str) -> list[dict[str, str]]:
    return [
        row
        for row in rows("quality")
        if row["dataset"].lower() == dataset.lower() and row["protocol"] == protocol
    ]


def _figures(row: dict[str, str]) -> dict[str, float]:
    """The figures that a row prints, by our name of the metric."""
    return {ours: float(row[column]) for column, ours in METRICS.items() if row.get(column)}


def quality(dataset: str, protocol: str, metric: str) -> dict[str, float]:
    """{model: value} of one metric, by our name, on one data set under one protocol."""
    found = {}
    for model, values in systems(dataset, protocol).items():
        if metric in values:
            found[model] = values[metric]
    return found


def sources(model: str, dataset: str, protocol: str) -> list[str]:
    """Codes of the sources of a model's figures on a data set."""
    printed = _quality_rows(dataset, protocol)
    return list(dict.fromkeys(row["source"] for row in printed if row["model"] == model))


def cost(model: str, column: str) -> float | None:
    """One cell of cost.csv, None where nothing was printed.

    MACs count only where they are those of 128 -> 512.
    """
    for row in rows("cost"):
        if row["model"] != model:
            continue
        is_of_another_input = column == "macs_g" and row["input"] != "128-512"
        if not row[column] or is_of_another_input:
            return None
        return float(row[column])
    return None


def scaled(model: str) -> bool:
    """Whether the papers print a system's parameters and MACs scaled by its bits, not counted."""
    return any(row["model"] == model and row["scaled_by_bits"] == "yes" for row in rows("cost"))


def latency(model: str, device: str) -> float | None:
    """Milliseconds at 128 -> 512 that were published for a device."""
    for row in rows("latency"):
        if row["model"] == model and row["device"] == device:
            return float(row["latency_ms"])
    return None


def devices() -> list[str]:
    """The devices whose latency was published."""
    return list(dict.fromkeys(row["device"] for row in rows("latency")))
