"""One step in the place of a chain: its first step, which `distill` then teaches the whole chain.

The clean latent that a network tells at the first timestep of its chain is a poor one, and the best
start there is for a one-step model: OSEDiff (arXiv 2406.08177) and AddSR (arXiv 2404.01717) train
theirs from it.
"""

from dataclasses import replace
from typing import Literal

from pydantic import ConfigDict, Field

from compress.core.errors import UserError
from compress.model.calls import TIMESTEP, Call
from compress.model.passes import Pass
from compress.model.sr_model import SRModel
from compress.model.unread import drop_unread


class OneStep(Pass):
    """Let the process end with what its first step tells of the clean latent.

    Guidance goes with the other steps: the one call reads the positive prompt. What only later
    steps read, such as their noise, goes too. List it before `strip`, which then folds the one
    timestep, and `distill` with `stage: student` after it: its teacher is the source, with all
    steps and with guidance.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["one_step"] = Field(
        default="one_step", alias="pass", description="Names the pass."
    )

    def convert(self, model: SRModel) -> None:
        """Change the process, and what its steps are told.

        Raises:
            UserError: There is one step already, the process does not say what its first step
                tells, or a component has no timestep of its own.
        """
        if model.process.steps <= 1:
            taken = "one step already" if model.process.steps else "no steps"
            raise UserError(
                f"pass 'one_step': the model takes {taken}; remove the pass from the recipe"
            )
        first_step = getattr(model.process, "first_step", None)
        process = None if first_step is None else first_step()
        if process is None:
            raise UserError(
                f"pass 'one_step': the process is a {type(model.process).__name__}, which does not "
                "say the clean latent of its first step; give it `first_step`, or choose one step "
                "in the source"
            )
        [timestep] = process.timesteps
        for call in model.wiring.steps:
            part = model.component(call.component, "pass 'one_step'")
            if not hasattr(part, "timestep"):
                raise UserError(
                    f"pass 'one_step': {call.component} is a {type(part).__name__}, which holds no "
                    "timestep of its own"
                )
            part.timestep = timestep
        model.process = process
        for call in model.wiring.between:
            delattr(model, call.component)
        kept = (call for call in model.wiring.calls if not call.between)
        calls = tuple(replace(call, inputs=_untold(call)) for call in kept)
        model.wiring = replace(model.wiring, calls=calls)
        drop_unread(model)


def _untold(call: Call) -> tuple[str, ...]:
    """The inputs of a call without the timestep."""
    return tuple(name for name in call.inputs if name != TIMESTEP)
