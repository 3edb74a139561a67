"""Figures printed in papers: models.csv (quality) and cost.csv (size); see README.md for sources and protocols."""

import csv
from importlib.resources import files

# the papers print these systems' parameters and MACs scaled by the bit width, not counted
BIT_SCALED = ("PassionSR-W8A8", "PassionSR-W6A6", "BiMaCoSR")


def rows(table: str) -> list[dict[str, str]]:
    """The rows of `models` or `cost`; every cell a string, "" where nothing was printed."""
    with (files(__name__) / f"{table}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def quality(dataset: str, protocol: str, metric: str) -> dict[str, float]:
    """{model: value} of one metric on one data set under one protocol; names compare without case."""
    wanted = (dataset.lower(), protocol, metric.lower())
    return {row["model"]: float(row["value"]) for row in rows("models")
            if (row["dataset"].lower(), row["protocol"], row["metric"].lower()) == wanted}


def cost(model: str, column: str) -> float | None:
    """One cell of cost.csv, None where nothing was printed."""
    value = next((row[column] for row in rows("cost") if row["model"] == model), "")
    return float(value) if value else None
