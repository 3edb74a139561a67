"""The scorecard of the NTIRE 2026 challenge on mobile real-world super-resolution.

Both figures come from a data set's averages. MUSIQ and CLIPIQA can be raised by training on them:
LPIPS and DISTS belong beside the score.
"""

INGREDIENTS = ("lpips", "dists", "clipiqa", "maniqa-pipal", "musiq", "niqe")


def score(
    lpips: float, dists: float, clipiqa: float, maniqa: float, musiq: float, niqe: float
) -> float:
    """The perceptual score of the averages of INGREDIENTS; higher is better.

    (1 - LPIPS) + (1 - DISTS) + CLIPIQA + MANIQA + MUSIQ / 100 + max(0, (10 - NIQE) / 10).
    """
    return (1 - lpips) + (1 - dists) + clipiqa + maniqa + musiq / 100 + max(0.0, (10 - niqe) / 10)


def final(perceptual: float, speedup: float) -> float:
    """The challenge's figure, 2^score * speedup^0.2.

    Args:
        perceptual: What `score` gives.
        speedup: How many times faster than OSEDiff at 128 -> 512; 1 for OSEDiff itself.
    """
    return 2**perceptual * speedup**0.2
