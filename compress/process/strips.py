"""A large result in strips: colour correction and 8-bit pixels without an image in floats in memory.

A strip is float32 [C, rows, W]; strips come from top to bottom. This module needs numpy alone,
because an exported folder has a copy of it in host/.

The low frequency of `wavelet` is five blurs by [1, 2, 1] / 4 at distances d = 1, 2, 4, 8, 16. Each
is (1 + z^d)^2 / 4 along rows and again along columns: four additions a pixel. It reaches 31 pixels.
As it is linear, the blur of enlarged input minus image takes the place of two blurs. `adain` and
`mean_std` need statistics of the whole before the first
pixel: the strips go through memory, or where they are large through a temporary file (TMPDIR says
where).
"""

import tempfile
from collections.abc import Iterable, Iterator

import numpy as np

DISTANCES = (1, 2, 4, 8, 16)
REACH = sum(DISTANCES)
GAIN = 4.0 ** -len(DISTANCES)  # of the blurs along one axis; they are sums otherwise
ROWS, WAVELET_ROWS = (
    16,
    128,
)  # of a strip while it is corrected; blurs need REACH rows more on both sides
IN_CACHE = 2**16  # values that a blur works on at a time
IN_MEMORY = 2**28  # bytes of strips that wait in memory; more go to a file
CORRECTIONS = ("adain", "wavelet", "mean_std", "none")

Strips = Iterator[np.ndarray]


class StripError(Exception):
    """Why there is no result; the message is one sentence."""


def spans(starts: list[int], side: int, margin: int = 0) -> list[tuple[int, int]]:
    """First pixel of each tile and the one after its last. `starts` count without the `margin` around the image, which
    the outermost tiles have beside their `side`."""
    return [
        (
            start + (margin if start else 0),
            start + margin + side + (margin if start == starts[-1] else 0),
        )
        for start in starts
    ]


def shares(starts: list[int], side: int, centre: float, margin: int = 0) -> list[np.ndarray]:
    """Blending weights of tiles along one axis: float64 over each of their `spans`, positive, of sum 1 at every pixel.

    Args:
        starts: First pixel of each tile, ascending from 0, without the margin.
        side: Pixels of a tile, without the margin.
        centre: Where in a tile its weight is greatest; Gaussian, with a variance of 0.01 of the
            tile.
        margin: Pixels before the first start and behind the last tile.

    A tile's weights on an area are products of those along the axes; so they sum to 1 as well.
    """
    places, total = spans(starts, side, margin), np.zeros(starts[-1] + side + 2 * margin)
    profiles = []
    for start, (first, last) in zip(starts, places, strict=True):
        distance = (np.arange(first, last) - margin - start - centre) / side
        profiles.append(
            np.exp(np.maximum(-(distance**2) / 0.02, -600))
        )  # never 0, however wide the margin
        total[first:last] += profiles[-1]
    return [
        profile / total[first:last] for profile, (first, last) in zip(profiles, places, strict=True)
    ]


def cut(strips: Iterable[np.ndarray], rows: int) -> Strips:
    """The same strips with at most `rows` rows each. Raises StripError where a value is not finite."""
    for strip in strips:
        for top in range(0, strip.shape[1], rows):
            piece = strip[:, top : top + rows]
            if not np.isfinite(piece).all():
                raise StripError("the model gave values that are not finite")
            yield piece


def cubic(t: float) -> float:
    """Keys' kernel with a = -0.75."""
    t = abs(t)
    if t <= 1:
        return 1.25 * t**3 - 2.25 * t**2 + 1
    return -0.75 * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def phases(scale: int) -> list[list[float]]:
    """For each of `scale` output pixels between two input pixels, the weights of five neighbours i-2 ... i+2."""
    return [[cubic(k - 2 - ((p + 0.5) / scale - 0.5)) for k in range(5)] for p in range(scale)]


def _interpolate(padded: np.ndarray, axis: int, scale: int) -> np.ndarray:
    """Bicubic along axis 1 or 2 of [C, h, w], which has two pixels more than wanted at both ends."""
    side = padded.shape[axis] - 4
    shape = list(padded.shape)
    shape[axis : axis + 1] = [side, scale]
    out = np.empty(shape, np.float32)
    for phase, taps in enumerate(phases(scale)):
        place = out[:, :, phase] if axis == 1 else out[:, :, :, phase]
        total = None
        for k, tap in enumerate(taps):
            if tap == 0.0:
                continue
            part = np.float32(tap) * (
                padded[:, k : k + side] if axis == 1 else padded[:, :, k : k + side]
            )
            total = part if total is None else np.add(total, part, out=total)
        place[...] = total
    shape[axis : axis + 2] = [side * scale]
    return out.reshape(shape)


def enlarge(lr: np.ndarray, scale: int, top: int = 0, bottom: int | None = None) -> np.ndarray:
    """Rows top ... bottom of the bicubic enlargement of float32 [C, h, w]: pixel centres aligned, edges repeated."""
    channels, height, width = lr.shape
    bottom = height * scale if bottom is None else bottom
    out = np.empty((channels, bottom - top, width * scale), np.float32)
    for row in range(
        top // scale, -(-bottom // scale)
    ):  # of the input: what it becomes fits a cache
        five = lr[:, np.arange(row - 2, row + 3).clip(0, height - 1)]
        low, high = max(top, row * scale), min(bottom, (row + 1) * scale)
        tall = _interpolate(five, 1, scale)[:, low - row * scale : high - row * scale]
        wide = np.empty((channels, high - low, width + 4), np.float32)
        wide[:, :, 2:-2], wide[:, :, :2], wide[:, :, -2:] = tall, tall[:, :, :1], tall[:, :, -1:]
        out[:, low - top : high - top] = _interpolate(wide, 2, scale)
    return out


def _sums(x: np.ndarray, axis: int, before: bool, after: bool) -> np.ndarray:
    """The five blurs along axis 1 or 2 of [C, h, w], times 4^5.

    Where `before` or `after`, that end is the image's own: its pixel is repeated for each blur.
    Elsewhere the result lacks REACH pixels.
    """

    def pick(start: int | None, stop: int | None) -> tuple:
        return (slice(None),) * axis + (slice(start, stop),)

    for d in DISTANCES:
        side = x.shape[axis]
        low, high = d if before else 0, d if after else 0
        if low or high:
            shape = list(x.shape)
            shape[axis] = side + low + high
            wide = np.empty(shape, x.dtype)
            wide[pick(low, low + side)] = x
            wide[pick(0, low)] = x[pick(0, 1)]
            wide[pick(low + side, None)] = x[pick(side - 1, side)]
            x = wide
        x = x[pick(d, None)] + x[pick(0, -d)]
        x = x[pick(d, None)] + x[pick(0, -d)]
    return x


def blur_along_rows(x: np.ndarray) -> np.ndarray:
    """The five blurs along the whole rows of float32 [C, h, W]; equal size."""
    out, block = np.empty_like(x), max(1, IN_CACHE // x.shape[2])
    for channel in range(x.shape[0]):
        for top in range(0, x.shape[1], block):
            part = _sums(x[channel : channel + 1, top : top + block], 2, True, True)
            np.multiply(part, np.float32(GAIN), out=out[channel : channel + 1, top : top + block])
    return out


def blur_along_columns(
    x: np.ndarray, at_top: bool, at_bottom: bool, skip: int, out: np.ndarray
) -> None:
    """The five blurs along the columns of float32 [C, h, W], without the first `skip` rows of the result, in `out`.

    The result begins REACH rows below the first of x where that is not the image's own (`at_top`),
    and ends as far above the last where that is not the image's.
    """
    rows, block = out.shape[1], max(1, IN_CACHE // x.shape[1])
    for channel in range(x.shape[0]):
        for left in range(0, x.shape[2], block):
            part = _sums(x[channel : channel + 1, :, left : left + block], 1, at_top, at_bottom)[
                :, skip : skip + rows
            ]
            np.multiply(
                part, np.float32(GAIN), out=out[channel : channel + 1, :, left : left + block]
            )


def wavelet(strips: Iterable[np.ndarray], lr: np.ndarray, scale: int) -> Strips:
    """High frequencies of the clipped image over the low frequency of the enlarged input."""
    height, width = lr.shape[1] * scale, lr.shape[2] * scale
    # Row r of the image is image[:, r - done] until it is corrected, and blurred along rows
    # blurred[:, r - first].
    image, blurred, out = (
        np.empty((lr.shape[0], WAVELET_ROWS + 2 * REACH, width), np.float32) for _ in range(3)
    )
    arrived = done = first = 0
    for strip in strips:
        count = strip.shape[1]
        new = image[:, arrived - done : arrived - done + count]
        np.clip(strip, 0, 1, out=new)
        for top in range(0, count, scale):
            rows = slice(arrived - first + top, arrived - first + min(top + scale, count))
            enlarged = enlarge(lr, scale, arrived + top, arrived + min(top + scale, count))
            blurred[:, rows] = blur_along_rows(
                np.subtract(enlarged, new[:, top : top + scale], out=enlarged)
            )
        arrived += count
        ready = arrived if arrived == height else arrived - REACH
        if ready <= done:
            continue
        low, high, rows = max(0, done - REACH), min(height, ready + REACH), ready - done
        blur_along_columns(
            blurred[:, low - first : high - first],
            low == 0,
            high == height,
            done if low == 0 else 0,
            out[:, :rows],
        )
        out[:, :rows] += image[:, :rows]
        yield out[:, :rows]
        image[:, : arrived - ready] = image[:, rows : rows + arrived - ready]
        begin = max(0, ready - REACH)
        blurred[:, : arrived - begin] = blurred[:, begin - first : arrived - first]
        done, first = ready, begin


class Statistics:
    """Mean and unbiased variance of each channel, float64 [C, 1, 1], of all strips together."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, np.zeros((1, 1, 1)), np.zeros((1, 1, 1))

    def add(self, strip: np.ndarray) -> None:
        block = max(1, IN_CACHE // strip.shape[2])
        for top in range(0, strip.shape[1], block):
            wide = strip[:, top : top + block].astype(np.float64)
            count, mean = wide[0].size, wide.mean((1, 2), keepdims=True)
            wide -= mean
            squares = np.einsum("chw,chw->c", wide, wide)[:, None, None]
            total, shift = self.count + count, mean - self.mean
            self.squares = self.squares + squares + shift**2 * (self.count * count / total)
            self.mean = self.mean + shift * (count / total)
            self.count = total

    @property
    def variance(self) -> np.ndarray:
        return self.squares / (self.count - 1)


def statistics(strips: Iterable[np.ndarray]) -> Statistics:
    found = Statistics()
    for strip in strips:
        found.add(strip)
    return found


class Waiting:
    """Strips that wait for the end of the image: in memory up to IN_MEMORY bytes, then in a temporary file."""

    def __init__(self) -> None:
        self.shapes, self.kept, self.bytes, self.file = [], [], 0, None

    def put(self, strip: np.ndarray) -> None:
        """Keep a float32 strip. Raises StripError where the disk is full."""
        self.shapes.append(strip.shape)
        self.bytes += strip.nbytes
        if self.file is None and self.bytes <= IN_MEMORY:
            self.kept.append(strip.copy())
            return
        try:
            if self.file is None:
                self.file = tempfile.TemporaryFile(buffering=0)
                for before in self.kept:
                    self._write(before)
                self.kept = []
            self._write(strip)
        except OSError as error:
            raise StripError(
                f"{self.bytes} bytes and more of a temporary file could not be written in "
                f"{tempfile.gettempdir()} ({error.strerror}); set TMPDIR to a folder with more "
                "room"
            ) from None

    def _write(self, strip: np.ndarray) -> None:
        rest = memoryview(np.ascontiguousarray(strip, np.float32)).cast("B")
        while rest:
            rest = rest[self.file.write(rest) :]

    def take(self) -> Strips:
        """The strips, once; the caller may change them."""
        if self.file is None:
            yield from self.kept
            return
        with self.file:
            self.file.seek(0)
            for shape in self.shapes:
                strip = np.empty(shape, np.float32)
                rest = memoryview(strip).cast("B")
                while rest:
                    read = self.file.readinto(rest)
                    if not read:
                        raise StripError(
                            "a temporary file ended before its time; run the command again"
                        )
                    rest = rest[read:]
                yield strip


def matched(strips: Iterable[np.ndarray], clip: bool, eps: float, wanted: Statistics) -> Strips:
    """The image, clipped before or not, with the channels' mean and standard deviation of `wanted`.

    A channel whose deviation is below 1e-6 takes the mean.
    """
    found, waiting = Statistics(), Waiting()
    for strip in strips:
        strip = strip.clip(0, 1) if clip else strip
        found.add(strip)
        waiting.put(strip)
    deviation = np.sqrt(found.variance + eps)
    flat = deviation < 1e-6
    gain = np.where(
        flat, 0.0, np.sqrt(wanted.variance + eps) / np.where(flat, 1.0, deviation)
    ).astype(np.float32)
    mean, target = found.mean.astype(np.float32), wanted.mean.astype(np.float32)
    for strip in waiting.take():
        strip -= mean
        strip *= gain
        strip += target
        yield strip


def corrected(strips: Iterable[np.ndarray], lr: np.ndarray, correction: str, scale: int) -> Strips:
    """Colour-correct an image of [3, 4h, 4w], given as strips, by its float32 input [3, h, w] in [0, 1].

    The result may leave [0, 1]. Rows of the strips that come out are others than of those that go
    in. A strip is valid until the next is asked for, in both directions.

    Raises:
        StripError: The image is not finite, or a temporary file does not find room.
        ValueError: `correction` is none of CORRECTIONS.
    """
    pieces = cut(strips, WAVELET_ROWS if correction == "wavelet" else ROWS)
    if correction == "wavelet":
        return wavelet(pieces, lr, scale)
    if correction == "mean_std":
        return matched(pieces, False, 0.0, statistics([lr]))
    if correction == "adain":
        height = lr.shape[1] * scale
        enlarged = (enlarge(lr, scale, y, min(y + ROWS, height)) for y in range(0, height, ROWS))
        return matched(pieces, True, 1e-5, statistics(enlarged))
    if correction != "none":
        raise ValueError(f"correction {correction!r} is none of {', '.join(CORRECTIONS)}")
    return pieces


def to_bytes(strips: Iterable[np.ndarray], height: int, width: int) -> np.ndarray:
    """uint8 [height, width, C] of an image in [0, 1]: clipped, rounded to nearest."""
    out, top = None, 0
    for strip in strips:
        if out is None:
            out = np.empty((height, width, strip.shape[0]), np.uint8)
        pixels = np.rint(strip.clip(0, 1) * np.float32(255)).astype(np.uint8)
        out[top : top + strip.shape[1]] = pixels.transpose(1, 2, 0)
        top += strip.shape[1]
    if top != height:
        raise ValueError(f"{top} of {height} rows came")
    return out


def to_floats(strips: Iterable[np.ndarray], height: int, width: int) -> np.ndarray:
    """float32 [1, C, height, width] in [0, 1] of the strips of an image."""
    out, top = None, 0
    for strip in strips:
        if out is None:
            out = np.empty((1, strip.shape[0], height, width), np.float32)
        np.clip(strip, 0, 1, out=out[0, :, top : top + strip.shape[1]])
        top += strip.shape[1]
    if top != height:
        raise ValueError(f"{top} of {height} rows came")
    return out
