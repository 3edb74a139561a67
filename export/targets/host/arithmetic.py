"""Image arithmetic: arrays are float32 [1, C, height, width]. Images too large for that are corrected by strips.py."""

import numpy as np

from . import strips
from .strips import phases  # noqa: F401  the exporter of Core ML takes it from here


def reflect(image: np.ndarray, bottom: int, right: int, top: int = 0, left: int = 0) -> np.ndarray:
    """Mirror beyond the edges without repeating them; where more is wanted than there is, again."""
    while right or bottom or top or left:
        height, width = image.shape[2] - 1, image.shape[3] - 1
        above, below = min(top, height), min(bottom, height)
        before, behind = min(left, width), min(right, width)
        image = np.pad(image, ((0, 0), (0, 0), (above, below), (before, behind)), mode="reflect")
        top, bottom, left, right = top - above, bottom - below, left - before, right - behind
    return image


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Bicubic, pixel centres aligned, edges repeated."""
    return strips.enlarge(image[0], scale)[None]


def fix(name: str, image: np.ndarray, lr: np.ndarray, scale: int) -> np.ndarray:
    """The colour correction `name` of an image [1, 3, scale * h, scale * w] by its input [1, 3, h, w]."""
    return np.concatenate(
        [strip.copy() for strip in strips.corrected([image[0]], lr[0], name, scale)], axis=1
    )[None]


FIXES = {
    name: (lambda image, lr, scale, name=name: fix(name, image, lr, scale))
    for name in strips.CORRECTIONS
}
