"""Embedded models by GPUs and delegates: how much of each stays on the CPU."""

from collections.abc import Mapping

from compress.core import markdown
from eval.results.datafile import Data
from eval.results.weights import NANO

NONE = "–"
PARTS = ("encoder", "denoiser", "decoder")
DELEGATES = ("xnnpack", "vulkan")


def grid(data: Mapping[str, Data]) -> str:
    """The table, of the files `residency`, `webgpu` and `delegates`, where they are there."""
    head = ["model", "LiteRT GPU", "WebGPU", "XNNPACK", "Vulkan"]
    rows = [
        [
            family,
            _left(data, "residency", family),
            _left(data, "webgpu", family),
            *(_pieces(data, family, delegate) for delegate in DELEGATES),
        ]
        for family in NANO
    ]
    return markdown.table(head, rows)


def _left(data: Mapping[str, Data], name: str, family: str) -> str:
    """Operators or nodes of all parts that the GPU leaves to the CPU."""
    rows = data[name]["rows"] if name in data else []
    found = [row["on_cpu"] for row in rows if row["family"] == family]
    return f"{sum(found)} on the CPU" if found else NONE


def _pieces(data: Mapping[str, Data], family: str, delegate: str) -> str:
    """Partitions of all parts, and operators beside them."""
    for row in data["delegates"]["rows"] if "delegates" in data else []:
        if (row["family"], row["delegate"]) == (family, delegate):
            if "portable" not in row:
                return "does not lower"
            partitions = sum(row.get(part) or 0 for part in PARTS)
            return f"{partitions} partitions, {row['portable']} on the CPU"
    return NONE
