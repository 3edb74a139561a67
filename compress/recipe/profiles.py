"""profile.json of an exported folder: what phones measured of its graphs.

A row is written when a job is submitted, and again when it is done. A command that was killed goes
on with the same jobs.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from typing_extensions import TypedDict

from compress.core.files import write_text
from compress.core.json_files import read_json

FILE = "profile.json"
WHAT = "measured on the devices that are named by python -m export.profile; nothing is predicted"
SCHEMA = 1
PUBLISHED_SIZE = (128, 128)  # low-resolution pixels of the latencies that papers print
WAITING, MEASURED, FAILED = "waiting", "measured", "failed"


@dataclass
class Row:
    """One graph on one device.

    Attributes:
        part: Its name in the manifest.
        sha256: Of its file.
        device: As its owner calls it.
        way: `ai-hub`, or `adb` with the runtime and its processor.
        state: WAITING, MEASURED or FAILED.
        calls: How often a tile calls it.
        ms: Of one call.
        peak_mb: Memory at its highest, in 10^6 bytes; None where the way does not say.
        units: Nodes by the processor that computed them; empty where the way does not say.
        job: The name of the job, where there is one.
        url: Where it can be looked at.
        os: Of the device.
        date: When it was measured.
        note: Why it failed, or what the runtime says of its delegate.
    """

    part: str
    sha256: str
    device: str
    way: str
    state: str = WAITING
    calls: int = 1
    ms: float | None = None
    peak_mb: float | None = None
    units: dict[str, int] = field(default_factory=dict)
    job: str = ""
    url: str = ""
    os: str = ""
    date: str = ""
    note: str = ""


class _Row(TypedDict):
    part: str
    sha256: str
    device: str
    way: str
    state: str
    calls: int
    ms: float | None
    peak_mb: float | None
    units: dict[str, int]
    job: str
    url: str
    os: str
    date: str
    note: str


class _File(TypedDict):
    schema: int
    what: str
    lr_size: list[int]
    parts: dict[str, str]
    rows: list[_Row]


@dataclass
class Profile:
    """What a profile.json holds.

    Attributes:
        lr_size: Height and width of a tile's low-resolution input.
        parts: Every graph of the folder -> the SHA-256 of its file.
        rows: What was measured, and what is waited for.
    """

    lr_size: tuple[int, int]
    parts: dict[str, str]
    rows: list[Row] = field(default_factory=list)

    def row(self, part: str, device: str, way: str) -> Row | None:
        """The row of a graph as it is now, unless it failed."""
        wanted = (part, self.parts.get(part), device, way)
        for row in self.rows:
            key = (row.part, row.sha256, row.device, row.way)
            if key == wanted and row.state != FAILED:
                return row
        return None

    def tile_ms(self, device: str) -> float | None:
        """Milliseconds of a tile, without the arithmetic between the graphs.

        Returns:
            All calls of all graphs, of the fastest way; None where one was not measured.
        """
        totals = []
        for way in dict.fromkeys(row.way for row in self.rows):
            rows = [self.row(part, device, way) for part in self.parts]
            ms = [row.ms * row.calls for row in rows if row is not None and row.ms is not None]
            if rows and len(ms) == len(rows):
                totals.append(sum(ms))
        return min(totals, default=None)


def read(folder: Path) -> Profile | None:
    """The profile of an exported folder; None where nothing was measured.

    Raises:
        UserError: The file is damaged.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    data = read_json(file, "what devices measured", _File, "it is damaged: move it away")
    height, width = data["lr_size"]
    return Profile((height, width), data["parts"], [Row(**row) for row in data["rows"]])


def write(folder: Path, profile: Profile) -> None:
    """Write the profile of an exported folder."""
    rows = [asdict(row) for row in profile.rows]
    data = {
        "schema": SCHEMA,
        "what": WHAT,
        "lr_size": list(profile.lr_size),
        "parts": profile.parts,
        "rows": rows,
    }
    write_text(folder / FILE, json.dumps(data, indent=1) + "\n")


def of_run(run: Path) -> list[Profile]:
    """The profiles of all exported folders inside a run directory."""
    found = [read(file.parent) for file in sorted(run.glob(f"*/{FILE}"))]
    return [profile for profile in found if profile is not None]


def devices_of(run: Path) -> list[str]:
    """The devices that measured an exported folder of a run."""
    return list(dict.fromkeys(row.device for profile in of_run(run) for row in profile.rows))


def run_ms(run: Path, device: str, lr_size: tuple[int, int] = PUBLISHED_SIZE) -> float | None:
    """Milliseconds of a tile of a run on a device, of its fastest export.

    Args:
        run: A run directory.
        device: As its owner calls it.
        lr_size: Height and width of the tile's low-resolution input.

    Returns:
        None where no export of that size was measured there.
    """
    totals = [profile.tile_ms(device) for profile in of_run(run) if profile.lr_size == lr_size]
    return min((ms for ms in totals if ms is not None), default=None)
