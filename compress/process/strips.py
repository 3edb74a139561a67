"""A large result in strips: colour correction and 8-bit pixels, never with all floats in memory.

A strip is float32 [C, rows, W]; strips come from top to bottom. This module needs numpy alone,
because an exported folder has a copy of it and of matching.py in host/.

The low frequency of `wavelet` is five blurs by [1, 2, 1] / 4 at distances d = 1, 2, 4, 8, 16. Each
is (1 + z^d)^2 / 4 along rows and again along columns: four additions a pixel. It reaches 31 pixels.
As it is linear, the blur of enlarged input minus image takes the place of two blurs. `adain` and
`mean_std` need statistics of the whole before the first pixel: the strips go through memory, or
where they are large through a temporary file (TMPDIR says where).
"""

from collections.abc import Iterable, Iterator

import numpy as np

from .matching import IN_CACHE, StripError, matched, statistics

DISTANCES = (1, 2, 4, 8, 16)
REACH = sum(DISTANCES)
GAIN = 4.0 ** -len(DISTANCES)  # of the blurs along one axis; they are sums otherwise
ROWS = 16  # of a strip while it is corrected
WAVELET_ROWS = 128  # the same for blurs, which need REACH rows more on both sides
VARIANCE = 0.01  # of a tile's weights, in units of the tile
LEAST_EXPONENT = -600  # of a weight: it is never 0, however wide the margin
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (BT.601)
CORRECTIONS = ("adain", "wavelet", "mean_std", "ycbcr", "none")

Strips = Iterator[np.ndarray]


def spans(starts: list[int], side: int, margin: int = 0) -> list[tuple[int, int]]:
    """First pixel of each tile and the one after its last.

    Args:
        starts: First pixels, counted without the margin.
        side: Pixels of a tile.
        margin: Pixels around the image, which the outermost tiles have beside their side.
    """
    places = []
    for start in starts:
        first = start + margin if start else 0
        last = start + margin + side
        if start == starts[-1]:
            last += margin
        places.append((first, last))
    return places


def shares(starts: list[int], side: int, centre: float, margin: int = 0) -> list[np.ndarray]:
    """Blending weights of tiles along one axis.

    A tile's weights on an area are products of those along the axes; so they sum to 1 as well.

    Args:
        starts: First pixel of each tile, ascending from 0, without the margin.
        side: Pixels of a tile, without the margin.
        centre: Where in a tile its weight, a Gaussian of VARIANCE, is greatest.
        margin: Pixels before the first start and behind the last tile.

    Returns:
        float64 over each of the tiles' `spans`, positive, of sum 1 at every pixel.
    """
    places = spans(starts, side, margin)
    total = np.zeros(starts[-1] + side + 2 * margin)
    profiles = []
    for start, (first, last) in zip(starts, places, strict=True):
        distance = (np.arange(first, last) - margin - start - centre) / side
        exponent = -(distance**2) / (2 * VARIANCE)
        profiles.append(np.exp(np.maximum(exponent, LEAST_EXPONENT)))
        total[first:last] += profiles[-1]
    for profile, (first, last) in zip(profiles, places, strict=True):
        profile /= total[first:last]
    return profiles


def cut(strips: Iterable[np.ndarray], rows: int) -> Strips:
    """The same strips with at most `rows` rows each.

    Raises:
        StripError: A value is not finite.
    """
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
    if t < 2:
        return -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
    return 0.0


def phases(scale: int) -> list[list[float]]:
    """Weights of bicubic enlargement.

    Returns:
        For each of `scale` output pixels in an input pixel i, those of the five i-2 ... i+2.
    """
    weights = []
    for phase in range(scale):
        place = (phase + 0.5) / scale - 0.5
        weights.append([cubic(k - 2 - place) for k in range(5)])
    return weights


def _interpolate(padded: np.ndarray, axis: int, scale: int) -> np.ndarray:
    """Bicubic along axis 1 or 2 of [C, h, w], which has two pixels too many at both ends."""
    side = padded.shape[axis] - 4
    shape = list(padded.shape)
    shape[axis : axis + 1] = [side, scale]
    out = np.empty(shape, np.float32)
    before = (slice(None),) * axis
    for phase, taps in enumerate(phases(scale)):
        used = [k for k, tap in enumerate(taps) if tap != 0.0]
        parts = (np.float32(taps[k]) * padded[(*before, slice(k, k + side))] for k in used)
        total = next(parts)
        for part in parts:
            np.add(total, part, out=total)
        place: tuple[slice | int, ...] = (*before, slice(None), phase)
        out[place] = total
    shape[axis : axis + 2] = [side * scale]
    return out.reshape(shape)


def enlarge(lr: np.ndarray, scale: int, top: int = 0, bottom: int | None = None) -> np.ndarray:
    """Rows top ... bottom of the bicubic enlargement of float32 [C, h, w].

    Pixel centres are aligned and edges repeated. It goes by rows of the input: what one becomes
    fits a cache.
    """
    channels, height, width = lr.shape
    bottom = height * scale if bottom is None else bottom
    out = np.empty((channels, bottom - top, width * scale), np.float32)
    for row in range(top // scale, -(-bottom // scale)):
        five = lr[:, np.arange(row - 2, row + 3).clip(0, height - 1)]
        low = max(top, row * scale)
        high = min(bottom, (row + 1) * scale)
        tall = _interpolate(five, 1, scale)[:, low - row * scale : high - row * scale]
        wide = np.empty((channels, high - low, width + 4), np.float32)
        wide[:, :, 2:-2] = tall
        wide[:, :, :2] = tall[:, :, :1]
        wide[:, :, -2:] = tall[:, :, -1:]
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
        low = d if before else 0
        high = d if after else 0
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
    out = np.empty_like(x)
    block = max(1, IN_CACHE // x.shape[2])
    for channel in range(x.shape[0]):
        for top in range(0, x.shape[1], block):
            part = _sums(x[channel : channel + 1, top : top + block], 2, True, True)
            np.multiply(part, np.float32(GAIN), out=out[channel : channel + 1, top : top + block])
    return out


def blur_along_columns(
    x: np.ndarray, at_top: bool, at_bottom: bool, skip: int, out: np.ndarray
) -> None:
    """The five blurs along the columns of float32 [C, h, W].

    The result begins REACH rows below the first of `x` where that is not the image's own, and ends
    as far above the last where that is not the image's.

    Args:
        x: Rows of the image.
        at_top: Whether they begin with its first.
        at_bottom: Whether they end with its last.
        skip: How many rows of the result are left out at its top.
        out: Where the result goes, float32 [C, rows, W].
    """
    rows = out.shape[1]
    block = max(1, IN_CACHE // x.shape[1])
    for channel in range(x.shape[0]):
        for left in range(0, x.shape[2], block):
            columns = slice(left, left + block)
            part = _sums(x[channel : channel + 1, :, columns], 1, at_top, at_bottom)
            place = out[channel : channel + 1, :, columns]
            np.multiply(part[:, skip : skip + rows], np.float32(GAIN), out=place)


def wavelet(strips: Iterable[np.ndarray], lr: np.ndarray, scale: int) -> Strips:
    """High frequencies of the clipped image over the low frequency of the enlarged input."""
    height = lr.shape[1] * scale
    width = lr.shape[2] * scale
    shape = (lr.shape[0], WAVELET_ROWS + 2 * REACH, width)
    # Row r of the image is image[:, r - done] until it is corrected, and blurred along rows
    # blurred[:, r - first].
    image = np.empty(shape, np.float32)
    blurred = np.empty(shape, np.float32)
    out = np.empty(shape, np.float32)
    arrived = 0
    done = 0
    first = 0
    for strip in strips:
        count = strip.shape[1]
        new = image[:, arrived - done : arrived - done + count]
        np.clip(strip, 0, 1, out=new)
        for top in range(0, count, scale):
            bottom = min(top + scale, count)
            difference = enlarge(lr, scale, arrived + top, arrived + bottom)
            difference -= new[:, top:bottom]
            place = blurred[:, arrived - first + top : arrived - first + bottom]
            place[...] = blur_along_rows(difference)
        arrived += count
        ready = arrived if arrived == height else arrived - REACH
        if ready <= done:
            continue
        rows = ready - done
        low = max(0, done - REACH)
        high = min(height, ready + REACH)
        skip = done if low == 0 else 0
        known = blurred[:, low - first : high - first]
        blur_along_columns(known, low == 0, high == height, skip, out[:, :rows])
        out[:, :rows] += image[:, :rows]
        yield out[:, :rows]
        image[:, : arrived - ready] = image[:, rows : rows + arrived - ready]
        begin = max(0, ready - REACH)
        blurred[:, : arrived - begin] = blurred[:, begin - first : arrived - first]
        done = ready
        first = begin


def ycbcr(strips: Iterable[np.ndarray], lr: np.ndarray, scale: int) -> Strips:
    """The luma of the clipped image with the chroma of the enlarged input."""
    top = 0
    weights = np.array(LUMA, np.float32)
    for strip in strips:
        source = enlarge(lr, scale, top, top + strip.shape[1])
        top += strip.shape[1]
        yield source + np.einsum("chw,c->hw", strip.clip(0, 1) - source, weights)


def corrected(strips: Iterable[np.ndarray], lr: np.ndarray, correction: str, scale: int) -> Strips:
    """Colour-correct an image by its input.

    The result may leave [0, 1]. Rows of the strips that come out are others than of those that go
    in. A strip is valid until the next is asked for, in both directions.

    Args:
        strips: Of the image [3, 4h, 4w].
        lr: Its input, float32 [3, h, w] in [0, 1].
        correction: One of CORRECTIONS.
        scale: How many times larger the image is.

    Raises:
        StripError: The image is not finite, or a temporary file does not find room.
        ValueError: `correction` is none of CORRECTIONS.
    """
    pieces = cut(strips, WAVELET_ROWS if correction == "wavelet" else ROWS)
    if correction == "wavelet":
        return wavelet(pieces, lr, scale)
    if correction == "ycbcr":
        return ycbcr(pieces, lr, scale)
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
    top = 0
    out = np.empty((0, 0, 0), np.uint8)
    for strip in strips:
        if top == 0:
            out = np.empty((height, width, strip.shape[0]), np.uint8)
        pixels = np.rint(strip.clip(0, 1) * np.float32(255)).astype(np.uint8)
        out[top : top + strip.shape[1]] = pixels.transpose(1, 2, 0)
        top += strip.shape[1]
    if top != height:
        raise ValueError(f"{top} of {height} rows came")
    return out


def to_floats(strips: Iterable[np.ndarray], height: int, width: int) -> np.ndarray:
    """float32 [1, C, height, width] in [0, 1] of the strips of an image."""
    top = 0
    out = np.empty((1, 0, 0, 0), np.float32)
    for strip in strips:
        if top == 0:
            out = np.empty((1, strip.shape[0], height, width), np.float32)
        np.clip(strip, 0, 1, out=out[0, :, top : top + strip.shape[1]])
        top += strip.shape[1]
    if top != height:
        raise ValueError(f"{top} of {height} rows came")
    return out
