"""Jobs of Qualcomm AI Hub: a graph is uploaded, run on a phone of theirs, and timed.

It needs the package qai-hub and the user's token (`qai-hub configure --api_token TOKEN`). Nothing
here was run against their service for want of a token; a fake of the interface is tested.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compress.core.errors import UserError, first_line, nearest
from compress.recipe import profiles
from compress.recipe.profiles import Row
from export.devices.graphs import Graph, bundle

WAY = "ai-hub"
MICROSECONDS = 1000  # in a millisecond; AI Hub counts in microseconds and bytes
MEGABYTE = 10**6
TARGETS = ("onnx", "qnn", "litert")
MOST_NEAR = 5
LOG_IN = "with a token of your account there run `qai-hub configure --api_token TOKEN`"


class AIHub:
    """One device of AI Hub.

    Args:
        package: The package qai_hub.
        device: As AI Hub calls it, such as `Samsung Galaxy S25`, or without its maker.

    Raises:
        UserError: There is no token, no such device, or no answer.
    """

    way = WAY

    def __init__(self, package: Any, device: str):
        self.package = package
        with self._told("asking for its devices", LOG_IN):
            names = list(dict.fromkeys(one.name for one in package.get_devices()))
        self.device = _named(device, names)

    def submit(self, graph: Graph) -> Row:
        """Upload a graph and ask for its time; returns a row that waits.

        Raises:
            UserError: AI Hub refuses it.
        """
        with tempfile.TemporaryDirectory() as place, self._told(f"submitting {graph.part}"):
            job = self.package.submit_inference_job(
                model=str(bundle(graph, Path(place))),
                device=self.package.Device(self.device),
                name=f"diffusion-sr-compress {graph.part}",
                profile=True,
            )
        row = Row(graph.part, graph.sha256, self.device, WAY, calls=graph.calls)
        row.job, row.url = str(job.job_id), str(job.url)
        return row

    def collect(self, row: Row) -> None:
        """Wait for the job of a row, and fill the row.

        Raises:
            UserError: AI Hub does not answer.
        """
        with self._told(f"waiting for job {row.job}"):
            job = self.package.get_job(row.job)
            status = job.wait()
            profile = job.download_profile() if status.success else {}
        row.date = datetime.now(UTC).date().isoformat()
        summary = profile.get("execution_summary", {})
        if not status.success or not summary.get("estimated_inference_time"):
            row.state = profiles.FAILED
            row.note = getattr(status, "message", None) or "the job left no time"
            return
        row.state = profiles.MEASURED
        row.os = str(getattr(job.device, "os", ""))
        row.ms = summary["estimated_inference_time"] / MICROSECONDS
        row.peak_mb = _peak(summary)
        for layer in profile.get("execution_detail", []):
            row.units[layer["compute_unit"]] = row.units.get(layer["compute_unit"], 0) + 1

    @contextmanager
    def _told(self, doing: str, remedy: str = "run the command again to go on") -> Iterator[None]:
        """Turn what the client raises into one sentence."""
        refusals = getattr(self.package, "client", self.package).Error
        try:
            yield
        except (refusals, OSError) as error:
            why = first_line(error).rstrip(".")
            raise UserError(f"AI Hub, {doing}: {why}; {remedy}") from None


def _peak(summary: dict[str, Any]) -> float | None:
    """The highest memory of a call in 10^6 bytes, where the device told it."""
    bounds = summary.get("inference_memory_peak_range")
    if isinstance(bounds, (list, tuple)) and bounds and bounds[-1] > 0:
        return bounds[-1] / MEGABYTE
    return None


def _named(device: str, names: list[str]) -> str:
    """The one name of AI Hub that a user's word stands for.

    Raises:
        UserError: None, or several.
    """
    wanted = device.casefold()
    for fits in _FITS:
        found = [name for name in names if fits(name.casefold(), wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"--device '{device}': AI Hub has {', '.join(found[:MOST_NEAR])}; name one"
            )
    raise UserError(
        f"--device '{device}' is unknown to AI Hub{nearest(device, names)}; `qai-hub list-devices` "
        "names its devices"
    )


_FITS: tuple[Callable[[str, str], bool], ...] = (
    lambda name, wanted: name == wanted,
    lambda name, wanted: name.partition(" ")[2] == wanted,
)
