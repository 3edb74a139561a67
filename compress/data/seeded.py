"""Degraded images that depend on nothing but a key, so that a resumed run sees the same ones."""

import numpy as np
import torch

from compress.data.degradation import degrade
from compress.data.presets import Degradation


def seed_of(*key: int) -> int:
    """One seed of 63 bits for a `key` of whole numbers, such as (seed, step, process)."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return int(state[0] >> 1)


def seeded_pair(hr: torch.Tensor, degradation: Degradation, *key: int) -> torch.Tensor:
    """The low-resolution partner [B, 3, H/4, W/4] of `hr` [B, 3, H, W], both in [0, 1].

    It is a function of `hr`, `degradation` and `key`.
    """
    return degrade(hr, degradation, torch.Generator().manual_seed(seed_of(*key)))
