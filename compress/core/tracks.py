"""Curves and samples of long work, by step, while it goes on.

What learns opens a track and reports to it. A command says where tracks are kept: always as plain
files in its own folder, and in a tracker where the user names one. Outside of a command they are
kept nowhere. Work that goes on after it was killed says at which step, and what came after that
step is taken back: a track is one curve.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from compress.core.files import write_text
from compress.core.image import write_image
from compress.core.processes import is_main
from compress.core.trackers import Tracker, check, word

FOLDER, ROWS, PICTURES = "tracks", "scalars.jsonl", "pictures"
STEP = "step"  # the key of a row that is no curve


class Sink(Protocol):
    """One place that a track is kept in."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Keep a row."""

    def picture(self, step: int, image: torch.Tensor) -> None:
        """Keep a picture, float [1, 3, H, W] in [0, 1]."""

    def close(self) -> None:
        """The work has ended."""


class Place(NamedTuple):
    """Where the tracks of a command are kept.

    Attributes:
        folder: Holds the folder `tracks`.
        trackers: Of TRACKERS.
        project: What trackers call the whole.
    """

    folder: Path
    trackers: tuple[str, ...]
    project: str


class Track:
    """The curves and samples of one piece of work.

    Attributes:
        name: Of the work.
        start: The step that it goes on from.
        place: Where it is kept; None for nowhere.
    """

    def __init__(self, name: str, start: int = 0, place: Place | None = None):
        self.name = name
        self.start = start
        self.place = place
        self._sinks: list[Sink] | None = None
        self._turns: Counter[str] = Counter()

    def turn(self, name: str) -> int:
        """How often this was called for `name`: the step of curves that come one after another."""
        self._turns[name] += 1
        return self._turns[name]

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Keep what is known after `step` steps."""
        for sink in self._opened():
            sink.scalars(step, values)

    def picture(self, step: int, image: torch.Tensor) -> None:
        """Keep a picture of what is made after `step` steps, float [1, 3, H, W] in [0, 1]."""
        for sink in self._opened():
            sink.picture(step, image)

    def close(self) -> None:
        """The work has ended."""
        for sink in self._sinks or []:
            sink.close()
        self._sinks = None

    def _opened(self) -> list[Sink]:
        """The places, which are made for the first report: most work learns nothing."""
        if self.place is None:
            return []
        if self._sinks is None:
            folder = self.place.folder / FOLDER / word(self.name)
            self._sinks = [Files(folder, self.start)]
            for tracker in self.place.trackers:
                self._sinks.append(Tracker(tracker, self.place.project, folder, self.start))
        return self._sinks


_PLACE: ContextVar[Place | None] = ContextVar("place", default=None)
_NOWHERE = Track("nowhere")
_CURRENT: ContextVar[Track] = ContextVar("track", default=_NOWHERE)


@contextmanager
def kept_in(folder: Path, project: str, trackers: tuple[str, ...] = ()) -> Iterator[None]:
    """Keep the tracks of the block below `folder`, and in trackers.

    Raises:
        UserError: A tracker is none of TRACKERS.
        ModuleNotFoundError: A tracker is not installed.
    """
    check(trackers)
    token = _PLACE.set(Place(folder, trackers, project))
    try:
        yield
    finally:
        _PLACE.reset(token)


@contextmanager
def opened(name: str, start: int = 0) -> Iterator[Track]:
    """A track for the work of the block; inside the block of another one it has both names.

    Args:
        name: Of the work.
        start: The step that it goes on from; what was kept of later ones is taken back.
    """
    outer = _CURRENT.get()
    whole = name if outer is _NOWHERE else f"{outer.name} {name}"
    track = Track(whole, start, _PLACE.get() if is_main() else None)
    token = _CURRENT.set(track)
    try:
        yield track
    finally:
        _CURRENT.reset(token)
        track.close()


def current() -> Track:
    """The track of the innermost block; one that is kept nowhere outside of all."""
    return _CURRENT.get()


class Files:
    """Plain files: a line of JSON a row, a PNG a picture."""

    def __init__(self, folder: Path, start: int):
        self.folder = folder
        rows = [row for row in read_rows(folder) if row[STEP] <= start]
        (folder / PICTURES).mkdir(parents=True, exist_ok=True)
        write_text(folder / ROWS, "".join(json.dumps(row) + "\n" for row in rows))
        for step, file in pictures(folder):
            if step > start:
                file.unlink()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row."""
        with (self.folder / ROWS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({STEP: step, **values}) + "\n")

    def picture(self, step: int, image: torch.Tensor) -> None:
        """Write the PNG of a step."""
        write_image(image, self.folder / PICTURES / f"{step:07d}.png")

    def close(self) -> None:
        """Leave no folder for pictures where there are none."""
        if not any((self.folder / PICTURES).iterdir()):
            (self.folder / PICTURES).rmdir()


def read_rows(folder: Path) -> list[dict[str, float]]:
    """The rows of a track, also of one that is being written; without what is cut off or odd."""
    file = folder / ROWS
    if not file.is_file():
        return []
    rows = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        row = None
        with suppress(ValueError):  # cut off by a kill, or not yet whole
            row = json.loads(line)
        if isinstance(row, dict) and isinstance(row.get(STEP), int):
            rows.append({key: value for key, value in row.items() if type(value) in (int, float)})
    return rows


def pictures(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of the pictures of a track, the first step first."""
    found = [(int(file.stem), file) for file in (folder / PICTURES).glob("[0-9]*.png")]
    return sorted(found)
