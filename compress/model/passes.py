"""What a pass is: a frozen config with `convert` (structure) and `fit` (values)."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from compress.core.config import Strict
from compress.model.sr_model import SRModel


@dataclass
class FitContext:
    """What `fit` may use: the data of a run, never the recipe.

    `source` is the uncompressed model with its values; `before(NAME)` reads a fresh copy of the model as it was
    before the last pass of that name up to and including the present one; `seed` makes a pass deterministic;
    `workdir` may hold checkpoints of long work, so that a killed run resumes.
    """

    source: SRModel
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    workdir: Path | None = None
    before: Callable[[str], SRModel] | None = None

    def __post_init__(self) -> None:
        if self.before is None:
            self.before = lambda name: copy.deepcopy(self.source)


class Pass(Strict):
    """One compression technique. `pass` in a recipe names it; all other keys are its fields.

    `convert` changes the structure from the config alone. It must run on meta tensors; where it moves values
    exactly (folding, slicing) the same code does both, because algebra on meta tensors is free.
    `fit` sets the values that need data, and returns figures for the ledger.
    """

    def convert(self, model: SRModel) -> None:
        raise NotImplementedError

    def fit(self, model: SRModel, context: FitContext) -> dict:
        return {}

    def as_published(self) -> "Pass":
        """This pass as its paper counts it, for a figure that can stand beside the published one."""
        return self

    def data_key(self) -> str:
        """Identity of the data that `fit` reads, part of the cache key; empty for a pass without data."""
        return ""
