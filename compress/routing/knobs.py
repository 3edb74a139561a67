"""The knobs of realism that a model has of its own, and how they are turned.

No family is named: a process says whether its noise may be turned down (`with_noise`), and where it
has a ladder, its steps may end early (`compress.process.contract`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from compress.core.errors import UserError
from compress.model.components import Components
from compress.process.contract import Ladder, Process, Steps
from compress.process.knobs import NOISE, OUTPUTS, STEPS, WEIGHTS, place_of
from compress.process.linear_steps import LinearSteps
from compress.process.strength import FULL
from compress.quant.interpolation import interpolate
from compress.routing.adaptive import AdaptiveSteps, LadderRun, ladder_of

ENLARGED = "blended with the plain enlargement alone"


class EarlyEnd(nn.Module):
    """A chain that ends where a strength says.

    Args:
        chain: A process with a ladder of at least two steps.
        strength: From 0, where the first call tells the clean latent, to below 1.
    """

    adaptive = False  # the number of steps is the same for every image
    factors = None  # the networks are told the timestep, also where there is one step

    def __init__(self, chain: Process, strength: float):
        super().__init__()
        self.chain = chain
        ladder = ladder_of(chain)
        if ladder is None:
            raise ValueError(f"a {type(chain).__name__} has no ladder of several steps")
        self.ladder_walked: Ladder = ladder
        self.last, self.share = place_of(ladder.places, strength)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The values that it reads."""
        return tuple(self.chain.inputs)

    @property
    def period(self) -> int:
        """Pixels of the latent after which its noise repeats itself."""
        return self.chain.period

    @property
    def steps(self) -> int:
        """How often the networks are called."""
        return self.last + 1

    def restore(self, first: torch.Tensor, steps: Steps, *more: torch.Tensor) -> torch.Tensor:
        """The clean latent [B, C, h, w]; arguments are those of a process' `restore`."""
        values = dict(zip(self.inputs, (first, *more), strict=True))
        run = LadderRun(self.chain, self.ladder_walked, values, steps)
        clean = before = run.call(0)
        for place in range(1, self.steps):
            run.go(place, clean)
            before, clean = clean, run.call(place)
        if self.steps == self.ladder_walked.places:
            run.go(self.steps, clean)
            clean = run.result
        return clean if self.share == 1 else self.share * clean + (1 - self.share) * before


def own_knobs(process: Process) -> tuple[str, ...]:
    """The knobs that a process has of its own, besides those that every model has."""
    found = []
    with_noise = getattr(process, "with_noise", None)
    if with_noise is not None and with_noise(1.0) is not None:
        found.append(NOISE)
    if ladder_of(process) is not None and not isinstance(process, AdaptiveSteps):
        found.append(STEPS)
    return tuple(found)


def exported_knobs(process: Process) -> tuple[str, ...]:
    """Those of the knobs that the graphs of its components leave to a host program."""
    return own_knobs(process) if isinstance(process, LinearSteps) else ()


def said(process: Process) -> str:
    """The knobs of a model and of what is exported of it, in one sentence."""
    own = own_knobs(process)
    if not own:
        return f"--strength: the result is {ENLARGED}; the process has no knob of its own"
    there = exported_knobs(process)
    kept = f"has --knob {', '.join(there)} as well" if there else "has the blend of outputs alone"
    return f"--strength: --knob {', '.join(own)} besides the blend of outputs; an export {kept}"


def turn(model: Components, knob: str, strength: float, faithful: Components | None = None) -> None:
    """Turn a model by one of its knobs for good; at 1, and for outputs, it stays as it is.

    Args:
        model: Any model.
        knob: One of `compress.process.knobs.KNOBS`.
        strength: From 0 to 1.
        faithful: For weights, the model of the faithful end, of the same structure.

    Raises:
        UserError: The model lacks the knob, or the weights do not fit.
    """
    if knob == WEIGHTS:
        if faithful is None:
            raise UserError("--knob weights needs the faithful model; give --faithful MODEL")
        interpolate(model, faithful, strength, "--knob weights")
    elif knob != OUTPUTS:
        model.put_process(_turned_process(model.process, knob, strength))


@contextmanager
def turned(
    model: Components, knob: str, strength: float, faithful: Components | None = None
) -> Iterator[None]:
    """As `turn`, within the block alone."""
    process = model.process
    own: dict[str, torch.Tensor] = {}
    if knob == WEIGHTS:
        own = {name: value.clone() for name, value in model.state_dict().items()}
    turn(model, knob, strength, faithful)
    try:
        yield
    finally:
        model.put_process(process)
        if knob == WEIGHTS:
            model.load_state_dict(own)


def _turned_process(process: Process, knob: str, strength: float) -> Process:
    own = own_knobs(process)
    if knob not in own:
        others = f"its own are {', '.join(own)}" if own else "it has none of its own"
        raise UserError(
            f"--knob {knob}: this model's process, a {type(process).__name__} of {process.steps} "
            f"step{'' if process.steps == 1 else 's'}, has no such knob; {others}; --knob outputs "
            "serves every model"
        )
    if strength == FULL:
        return process
    if knob == STEPS:
        return EarlyEnd(process, strength).eval()
    with_noise = getattr(process, "with_noise")  # noqa: B009  no process must have it
    made: Process = with_noise(strength)
    return made.eval() if isinstance(made, nn.Module) else made
