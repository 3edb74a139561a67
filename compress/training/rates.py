"""How the learning rate goes over a training."""

from collections.abc import Callable

import torch

LAST_RATE = 0.02  # of the learning rate, at the last step


def cosine_with_warmup(steps: int, warmup: int, floor: float = LAST_RATE) -> Callable[[int], float]:
    """The factor of the learning rate at a step.

    It rises evenly to 1 within `warmup` steps, and falls as a cosine to `floor` at `steps`.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        wave = 1 + torch.cos(torch.tensor(progress * torch.pi)).item()
        return floor + (1 - floor) * 0.5 * wave

    return factor
