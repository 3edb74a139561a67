"""Image arithmetic: arrays are float32 [1, C, height, width].

strips.py corrects images that are too large for that.
"""

from functools import partial

import numpy as np

from . import strips


def reflect(image: np.ndarray, bottom: int, right: int, top: int = 0, left: int = 0) -> np.ndarray:
    """Mirror an image beyond its edges without repeating the edge pixels.

    Args:
        image: float32 [1, C, height, width], of at least 2 pixels along each axis that grows.
        bottom: Rows to add below. An image that is smaller than this is mirrored several times.
        right: Columns to add on the right.
        top: Rows to add above.
        left: Columns to add on the left.

    Returns:
        float32 [1, C, top + height + bottom, left + width + right].
    """
    while right or bottom or top or left:
        height, width = image.shape[2] - 1, image.shape[3] - 1
        above = min(top, height)
        below = min(bottom, height)
        before = min(left, width)
        behind = min(right, width)
        image = np.pad(image, ((0, 0), (0, 0), (above, below), (before, behind)), mode="reflect")
        top -= above
        bottom -= below
        left -= before
        right -= behind
    return image


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Bicubic enlargement, pixel centres aligned, edges repeated.

    Args:
        image: float32 [1, C, h, w].
        scale: A whole factor.

    Returns:
        float32 [1, C, scale * h, scale * w].
    """
    return strips.enlarge(image[0], scale)[None]


def fix(name: str, image: np.ndarray, lr: np.ndarray, scale: int) -> np.ndarray:
    """Correct the colours of an image by its input.

    Args:
        name: One of `strips.CORRECTIONS`.
        image: float32 [1, 3, scale * h, scale * w].
        lr: float32 [1, 3, h, w].
        scale: The factor between them.

    Returns:
        float32 of `image`'s shape. Values may leave [0, 1].
    """
    rows = [strip.copy() for strip in strips.corrected([image[0]], lr[0], name, scale)]
    return np.concatenate(rows, axis=1)[None]


# Name of a correction -> (image, lr, scale) -> image.
FIXES = {name: partial(fix, name) for name in strips.CORRECTIONS}
