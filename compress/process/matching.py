"""Strips of an image that take the mean and deviation of another.

Both are known at the image's end, so its strips wait. A strip is float32 [C, rows, W]. This module
needs numpy alone, because an exported folder has a copy of it in host/.
"""

import tempfile
from collections.abc import Iterable, Iterator
from io import FileIO

import numpy as np

IN_MEMORY = 2**28  # bytes of strips that wait in memory; more go to a file
IN_CACHE = 2**16  # values that are worked on at a time
FLAT = 1e-6  # a channel of a smaller deviation takes the mean


class StripError(Exception):
    """Why there is no result; the message is one sentence."""


class Waiting:
    """Strips that wait: in memory up to IN_MEMORY bytes, then in a temporary file.

    Attributes:
        bytes: What has been put so far.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._shapes: list[tuple[int, ...]] = []
        self._kept: list[np.ndarray] = []
        self._file: FileIO | None = None

    def put(self, strip: np.ndarray) -> None:
        """Keep a float32 strip.

        Raises:
            StripError: The disk is full.
        """
        self._shapes.append(strip.shape)
        self.bytes += strip.nbytes
        if self._file is None and self.bytes <= IN_MEMORY:
            self._kept.append(strip.copy())
            return
        try:
            if self._file is None:
                self._file = self._moved_to_file()
            _write(self._file, strip)
        except OSError as error:
            raise StripError(
                f"{self.bytes} bytes and more of a temporary file could not be written in "
                f"{tempfile.gettempdir()} ({error.strerror}); set TMPDIR to a folder with more "
                "room"
            ) from None

    def _moved_to_file(self) -> FileIO:
        """A temporary file with the strips that were in memory."""
        # Open until `take` has read it.
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        for strip in self._kept:
            _write(file, strip)
        self._kept = []
        return file

    def take(self) -> Iterator[np.ndarray]:
        """The strips, once; the caller may change them.

        Raises:
            StripError: The temporary file is shorter than what was written.
        """
        if self._file is None:
            yield from self._kept
            return
        with self._file as file:
            file.seek(0)
            for shape in self._shapes:
                yield _read(file, shape)


def _write(file: FileIO, strip: np.ndarray) -> None:
    """Write all of a strip; an unbuffered file may take less at a time."""
    rest = np.ascontiguousarray(strip, np.float32).data.cast("B")
    while rest:
        rest = rest[file.write(rest) :]


def _read(file: FileIO, shape: tuple[int, ...]) -> np.ndarray:
    strip = np.empty(shape, np.float32)
    rest = strip.data.cast("B")
    while rest:
        count = file.readinto(rest)
        if not count:
            raise StripError("a temporary file ended before its time; run the command again")
        rest = rest[count:]
    return strip


class Statistics:
    """Mean and unbiased variance of each channel, float64 [C, 1, 1], of all strips together."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = np.zeros((1, 1, 1))
        self.squares = np.zeros((1, 1, 1))

    def add(self, strip: np.ndarray) -> None:
        """Take in a strip [C, rows, W]."""
        block = max(1, IN_CACHE // strip.shape[2])
        for top in range(0, strip.shape[1], block):
            wide = strip[:, top : top + block].astype(np.float64)
            count = wide[0].size
            mean = wide.mean((1, 2), keepdims=True)
            wide -= mean
            squares = np.einsum("chw,chw->c", wide, wide)[:, None, None]
            total = self.count + count
            shift = mean - self.mean
            self.squares = self.squares + squares + shift**2 * (self.count * count / total)
            self.mean = self.mean + shift * (count / total)
            self.count = total

    @property
    def variance(self) -> np.ndarray:
        """Unbiased."""
        return self.squares / (self.count - 1)


def statistics(strips: Iterable[np.ndarray]) -> Statistics:
    """Those of the strips of an image."""
    sums = Statistics()
    for strip in strips:
        sums.add(strip)
    return sums


def matched(
    strips: Iterable[np.ndarray], clip: bool, eps: float, wanted: Statistics
) -> Iterator[np.ndarray]:
    """The image with the channels' mean and standard deviation of another.

    Args:
        strips: Of the image.
        clip: Clip it to [0, 1] before.
        eps: Added to both variances.
        wanted: Of the other image.
    """
    own = Statistics()
    waiting = Waiting()
    for strip in strips:
        values = strip.clip(0, 1) if clip else strip
        own.add(values)
        waiting.put(values)
    deviation = np.sqrt(own.variance + eps)
    flat = deviation < FLAT
    ratio = np.sqrt(wanted.variance + eps) / np.where(flat, 1.0, deviation)
    gain = np.where(flat, 0.0, ratio).astype(np.float32)
    mean = own.mean.astype(np.float32)
    target = wanted.mean.astype(np.float32)
    for strip in waiting.take():
        strip -= mean
        strip *= gain
        strip += target
        yield strip
