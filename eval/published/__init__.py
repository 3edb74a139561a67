"""Figures printed in papers, as data: quality, cost, latency, the NTIRE scorecard; README.md has sources and
protocols."""

import csv
from functools import cache
from pathlib import Path

# column of quality.csv -> our name of the metric; the papers' LPIPS is AlexNet's, their PSNR and SSIM are on luma
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
    """The rows of `quality`, `cost`, `latency`, `ntire2026` or `sources`; every cell a string, "" where none is
    printed."""
    with Path(__file__).with_name(f"{table}.csv").open(encoding="utf-8", newline="") as stream:
        return tuple(csv.DictReader(stream))


def systems(dataset: str, protocol: str) -> dict[str, dict[str, float]]:
    """{model: {metric: value}} on one data set under one protocol, metrics by our names; names compare without case.

    Where two sources print the same cell, the first one counts.
    """
    found: dict[str, dict[str, float]] = {}
    for row in rows("quality"):
        if (row["dataset"].lower(), row["protocol"]) == (dataset.lower(), protocol):
            values = {ours: float(row[column]) for column, ours in METRICS.items() if row[column]}
            found[row["model"]] = values | found.get(row["model"], {})
    if (dataset.lower(), protocol) == (NTIRE[0].lower(), NTIRE[1]):
        for row in rows("ntire2026"):
            found[row["team"]] = {METRICS[k]: float(row[k]) for k in METRICS if row.get(k)} | {
                "ntire-score": float(row["score"]),
                "ntire-final": float(row["final"]),
            }
    return found


def quality(dataset: str, protocol: str, metric: str) -> dict[str, float]:
    """{model: value} of one metric, by our name, on one data set under one protocol."""
    return {
        model: values[metric]
        for model, values in systems(dataset, protocol).items()
        if metric in values
    }


def sources(model: str, dataset: str, protocol: str) -> list[str]:
    """Codes of the sources of a model's figures on a data set."""
    return list(
        dict.fromkeys(
            row["source"]
            for row in rows("quality")
            if (row["model"], row["dataset"].lower(), row["protocol"])
            == (model, dataset.lower(), protocol)
        )
    )


def cost(model: str, column: str) -> float | None:
    """One cell of cost.csv, None where nothing was printed. MACs only where they are those of 128 -> 512."""
    row = next((row for row in rows("cost") if row["model"] == model), None)
    if row is None or not row[column] or (column == "macs_g" and row["input"] != "128-512"):
        return None
    return float(row[column])


def scaled(model: str) -> bool:
    """Whether the papers print this system's parameters and MACs scaled by its bits instead of counted."""
    return any(row["model"] == model and row["scaled_by_bits"] == "yes" for row in rows("cost"))


def latency(model: str, device: str) -> float | None:
    """Milliseconds at 128 -> 512 that were published for a device."""
    return next(
        (
            float(row["latency_ms"])
            for row in rows("latency")
            if (row["model"], row["device"]) == (model, device)
        ),
        None,
    )


def devices() -> list[str]:
    return list(dict.fromkeys(row["device"] for row in rows("latency")))
