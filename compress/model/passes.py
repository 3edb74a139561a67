"""What a pass is: a frozen config with `convert` (structure) and `fit` (values)."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from compress.core.config import Strict
from compress.model.sr_model import SRModel

# A component as a recipe names it; whether the model has it, `convert` says.
ComponentName = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]


@dataclass(frozen=True)
class Watch:
    """A look at a model from time to time while a pass trains it.

    What it finds goes into the pass's figures, and with them into the cache. It may raise, which
    ends the training; its last checkpoint stays.

    Attributes:
        name: Tells what is looked at, so that figures of another look are known as such.
        shares: After which shares of the steps, each above 0 and below 1.
        look: Called with the model, which has its averaged weights, and the share.
    """

    name: str
    shares: tuple[float, ...]
    look: Callable[[SRModel, float], float]


class FitContext:
    """What `fit` may use: the data of a run, never the recipe.

    Attributes:
        source: The uncompressed model with its values.
        seed: Makes a pass deterministic.
        device: Where networks run.
        workdir: A folder for checkpoints of long work, so that a killed run resumes; None for none.
        before: Called with a pass's name. Gives a fresh copy of the model as it was before the last
            pass of that name, up to and including the present one.
        watch: A look at the model while it trains; None for none.
    """

    def __init__(
        self,
        source: SRModel,
        seed: int = 0,
        device: torch.device | None = None,
        workdir: Path | None = None,
        before: Callable[[str], SRModel] | None = None,
        watch: Watch | None = None,
    ):
        self.watch = watch
        self.source = source
        self.seed = seed
        self.device = torch.device("cpu") if device is None else device
        self.workdir = workdir
        self.before = self._copy_of_source if before is None else before

    def _copy_of_source(self, _pass_name: str) -> SRModel:
        return copy.deepcopy(self.source)


class Pass(Strict):
    """One compression technique. `pass` in a recipe names it; all other keys are its fields."""

    changes_structure: ClassVar[bool] = True  # else a model costs afterwards what it cost before

    def convert(self, model: SRModel) -> None:
        """Change the structure of `model` in place, from the config alone.

        It must run on meta tensors. Where it moves values exactly (folding, slicing), the same code
        does both, because algebra on meta tensors is free.

        Raises:
            UserError: The pass does not fit the model.
        """
        raise NotImplementedError

    def fit(self, model: SRModel, context: FitContext) -> dict[str, Any]:
        """Set the values of `model` that need data, in place.

        Returns:
            Figures for the ledger, JSON-ready; by default none.
        """
        return {}

    def as_published(self) -> "Pass":
        """This pass as its paper counts it, so that a figure can stand beside the published one."""
        return self

    def data_key(self) -> str:
        """Identity of the data that `fit` reads, a part of the cache key; empty without data."""
        return ""
