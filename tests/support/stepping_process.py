"""Processes that call more than the components of a step, and a small model for them.

`Redecoding` is in the manner of AddSR: what a step made is decoded, and the next step sees it as
the image. `UntilSettled` is in the manner of AdaDiffSR: it ends where a step changes little.
Neither is published.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from support.parted_model import C, Enlarge, Half, Preprocessor, Timed
from torch import nn

from compress.model.calls import Call, Wiring, map_ratios
from compress.model.sr_model import SRModel, Tiling
from compress.process.contract import Process, Steps

TIMESTEPS = (799, 599, 399, 199)
WIRING = Wiring(
    (
        Call("preprocessor", ("lr",), ("condition",)),
        Call("encoder", ("condition",), ("latent",)),
        Call("denoiser", ("state", "timestep", "condition"), ("prediction",), each_step=True),
        Call("decoder", ("clean_latent",), ("image",)),
    ),
    map_ratios(0.5, condition=1.0),
)


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = Timed(C)
        self.hint = nn.Conv2d(3, C, 3, stride=2, padding=1)

    def forward(
        self, state: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor
    ) -> torch.Tensor:
        return self.body(state, timestep) + self.hint(condition)


def timesteps(latent: torch.Tensor, step: int) -> torch.Tensor:
    return latent.new_full((len(latent),), TIMESTEPS[step], dtype=torch.int64)


@dataclass(frozen=True)
class Redecoding:
    """Each later step is conditioned on what the decoder makes of the step before."""

    inputs: ClassVar[tuple[str, ...]] = ("latent", "condition")
    period: ClassVar[int] = 1
    adaptive: ClassVar[bool] = False
    factors: ClassVar[None] = None

    steps: int = 3
    weight: float = 0.4

    def restore(self, latent: torch.Tensor, steps: Steps, condition: torch.Tensor) -> torch.Tensor:
        clean = steps(latent, timesteps(latent, 0))
        for step in range(1, self.steps):
            seen = nn.functional.avg_pool2d(steps.call("decoder", clean).clamp(0, 1), 4)
            seen = steps.call("preprocessor", seen)
            mixed = self.weight * seen + (1 - self.weight) * condition
            state = 0.8 * clean + 0.2 * latent
            clean = steps(state, timesteps(latent, step), condition=mixed)
        return clean


@dataclass(frozen=True)
class UntilSettled:
    """Ends after the first step that changes the state by less than `least` on average."""

    inputs: ClassVar[tuple[str, ...]] = ("latent",)
    period: ClassVar[int] = 1
    adaptive: ClassVar[bool] = True
    factors: ClassVar[None] = None

    least: float
    steps: int = len(TIMESTEPS)

    def restore(self, latent: torch.Tensor, steps: Steps) -> torch.Tensor:
        state = latent
        for step in range(self.steps):
            before = state
            state = state - 0.5 * steps(state, timesteps(latent, step))
            if not state.is_meta and (state - before).abs().mean() < self.least:
                break
        return state


def stepping(process: Process, seed: int = 0) -> SRModel:
    """A model of that process with random weights."""
    torch.manual_seed(seed)
    parts = {
        "preprocessor": Preprocessor(),
        "encoder": Half(),
        "denoiser": Denoiser(),
        "decoder": Enlarge(),
    }
    model = SRModel(
        parts,
        process,
        wiring=WIRING,
        colour_fix="none",
        multiple=4,
        tiling=Tiling(tile=32, overlap=16, margin=8),
    )
    return model.eval().requires_grad_(False)
