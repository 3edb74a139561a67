"""Fewer steps of a chain, and other ones on each tile: AdaDiffSR (arXiv 2410.17752)."""

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict, Field, model_validator

from compress.core.errors import UserError
from compress.core.identity import files_key
from compress.cost.count import meta_copy
from compress.model.passes import FitContext, Pass
from compress.model.sr_model import SRModel
from compress.process.walks import TAU, Rules
from compress.routing.adaptive import even_steps, install, ladder_of, latent_channels
from compress.routing.regressor_file import read_regressor
from compress.routing.skipping import default_intervals
from compress.routing.step_networks import StepRegressor, Width, widths


class AdaptiveStepsPass(Pass):
    """Leave out steps of a chain: by what a regressor says of each tile, or evenly.

    With `regressor` each tile takes its own steps, and tiles are blended once at the end. With
    `calls` all tiles take the same, spread evenly: what adaptive steps are measured against.
    compress.skip makes a regressor.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["adaptive_steps"] = Field(
        default="adaptive_steps", alias="pass", description="Names the pass."
    )
    regressor: str | None = Field(
        None, description="The file of a regressor, trained for this model."
    )
    size: Width = Field("small", description="Of the regressor: `small`, or `full` as published.")
    metrics: int = Field(
        4, ge=1, le=64, description="How many metrics the regressor predicts the rise of."
    )
    calls: int | None = Field(
        None, ge=1, le=1000, description="Without a regressor, how many calls all tiles take."
    )
    intervals: tuple[int, int, int, int] | None = Field(
        None,
        description="Steps to the next call where both gains rise, where one rises, where quality "
        "alone stands still, and where both do; null: 5, 10, 15, 20 for chains of 100 steps or "
        "more, 1, 1, 2, 3 from 8 steps on, else 1, 1, 2, 2.",
    )
    tau: float = Field(TAU, ge=0, le=1, description="Gains within it are none.")
    first: int | None = Field(
        None, ge=1, le=1000, description="The first interval; null: the second of `intervals`."
    )
    leave: bool = Field(
        True,
        description="Whether a tile whose quality falls in the second half leaves the chain with "
        "its best state.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> "AdaptiveStepsPass":
        if (self.regressor is None) == (self.calls is None):
            raise ValueError("give `regressor`, for steps by tile, or `calls`, for even ones")
        return self

    def rules(self, places: int) -> Rules:
        """When a chain of that many steps takes which interval."""
        intervals = self.intervals or default_intervals(places)
        return Rules(intervals, self.tau, self.first or intervals[1], self.leave)

    def convert(self, model: SRModel) -> None:
        """Put the process in the place of the model's.

        Raises:
            UserError: The model's process has no steps that can be left out.
        """
        ladder = ladder_of(model.process)
        if ladder is None:
            raise UserError(
                f"pass 'adaptive_steps': the process is a {type(model.process).__name__} of "
                f"{model.process.steps} steps, of which none can be left out; choose a source with "
                "several steps, without guidance"
            )
        if self.calls is not None:
            model.process = even_steps(model.process, self.calls)
            return
        channels = latent_channels(meta_copy(model))
        device = next(model.parameters()).device
        with torch.device(device):
            network = StepRegressor(channels, self.metrics, widths(self.size))
        install(model, network, self.rules(ladder.places))

    def fit(self, model: SRModel, context: FitContext) -> dict[str, Any]:
        """Read the regressor's values.

        Returns:
            What its file says of its metrics and of its training.

        Raises:
            UserError: The file is missing or damaged, or is of a regressor of another size.
        """
        if self.regressor is None:
            return {"calls": model.process.steps}
        found = read_regressor(self.regressor, model, "passes: adaptive_steps")
        return {"most_calls": model.process.steps, **found}

    def data_key(self) -> str:
        """Identity of the regressor's file."""
        return files_key([Path(self.regressor)]) if self.regressor else ""
