"""What --strength turns: a blend of outputs, or what a process has of its own.

    outputs   the result blended with the plain enlargement of the input (strength.py)
    noise     the noise of the process times the strength: at 0 it runs without noise
    steps     how far a chain of steps goes: at 0 its first call tells the clean latent
    weights   weights between those of a faithful model, at 0, and the model's own

At 1 each is the model itself. The first call of a chain sees nothing but noise and the input, so
what it tells is nearly the mean of all that the input may have been: the faithful end. Between two
calls the clean latents that they tell are mixed.

This module needs nothing else, because an exported folder has a copy of it in host/.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

OUTPUTS, NOISE, STEPS, WEIGHTS = "outputs", "noise", "steps", "weights"
KNOBS = (OUTPUTS, NOISE, STEPS, WEIGHTS)
OF_STEP = ("state", "prediction")  # values of a step; with _0 and so on, of an earlier one


def place_of(places: int, strength: float) -> tuple[int, float]:
    """Where a chain ends at a strength.

    Args:
        places: Steps of the whole chain.
        strength: From 0 to 1.

    Returns:
        The last place that is called, from 0, and the share of what it tells; the rest is of the
        place before.
    """
    position = strength * (places - 1)
    last = math.ceil(position)
    return last, position - last + 1


def shortened(steps: Sequence[Mapping[str, Any]], strength: float) -> list[dict[str, Any]]:
    """The steps of a chain of weighted sums, ended where a strength says.

    Args:
        steps: Of the whole chain. Each has `timestep`, `factors` of the next state, and `clean`,
            the factors of the clean latent over the state and the prediction.
        strength: From 0 to 1.
    """
    last, share = place_of(len(steps), strength)
    kept = [dict(step) for step in steps[: last + 1]]
    if last < len(steps) - 1:
        kept[last]["factors"] = dict(steps[last]["clean"])
    if share < 1:
        factors = {name: share * factor for name, factor in kept[last]["factors"].items()}
        for name, factor in steps[last - 1]["clean"].items():
            earlier = f"{name}_{last - 1}" if name in OF_STEP else name
            factors[earlier] = factors.get(earlier, 0.0) + (1 - share) * factor
        kept[last]["factors"] = factors
    return kept
