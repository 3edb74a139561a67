"""How the components of a model are called: which values each of them reads and makes.

A value is a tensor with a name. What has to know what feeds what (calibration, exported graphs and
their names, parity, tiles, the host program) reads it off the calls of a model.

| value          | what it is                                                      |
|----------------|-----------------------------------------------------------------|
| `lr`           | the low-resolution image                                        |
| `latent`       | what the process starts from                                    |
| `state`        | what the process shows the components of a step                 |
| `timestep`     | int64 [B], for a process of several steps                       |
| `prediction`   | what the process gets of a step                                 |
| `clean_latent` | what the process gives once its steps are done                  |
| `image`        | the result, before any correction                               |

A model of one network has no steps, and `clean_latent` is `lr` (`one_network`).

All other names are a model's own, such as `context`, `control`, `reference` or `noise`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

LR, STATE, TIMESTEP = "lr", "state", "timestep"
LATENT, PREDICTION, CLEAN_LATENT, IMAGE = "latent", "prediction", "clean_latent", "image"
OF_PROCESS = (STATE, TIMESTEP)  # what the process gives at each step

Values = dict[str, Any]  # a value's name -> tensor, or None for one that nothing makes


def one_or_all(outputs: Sequence[Any]) -> Any:
    """What a component returns: one output as it is, several as a tuple."""
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


@dataclass(frozen=True)
class Call:
    """One call of a component.

    Attributes:
        component: Its name.
        inputs: Values that are its arguments, in their order. Without inputs what it puts out is a
            constant of the model.
        outputs: Values that it returns: one as a tensor, several as a tuple.
        each_step: Whether it is called at each step of the process, and not once.
        between: Whether only the process calls it, between two steps, with arguments of its own.
        aside: Whether no run of the model calls it: it makes once what is kept of a photograph
            (`References`).
    """

    component: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    each_step: bool = False
    between: bool = False
    aside: bool = False

    @property
    def in_process(self) -> bool:
        """Whether it is called while the process runs alone."""
        return self.each_step or self.between

    def given(self, inputs: Sequence[Any]) -> Values:
        """Arguments under their names; a constant of the model, which has none, takes no notice."""
        return dict(zip(self.inputs, inputs, strict=True)) if self.inputs else {}

    def result(self, values: Values) -> Any:
        """What the component returned, out of all values: one tensor, or a tuple of several."""
        return one_or_all([values[name] for name in self.outputs])


# Told of each call: it, its arguments, and what it put out.
Watch = Callable[[Call, tuple, tuple], None]


@dataclass(frozen=True)
class References:
    """Photographs of like content that a model refers to, and what is kept of them.

    What is kept is made once, by a call that is `aside`, and goes into every run and every tile as
    it is. So it may be stored in a file. A model that is given none sees zeros.

    Attributes:
        component: Makes what is kept, of one photograph `reference`, float [1, 3, height, width]
            in [0, 1].
        count: Places for photographs.
        size: Height and width of a photograph in pixels.
        kept: Name of a value -> shape of what is kept of one photograph.
        shared: Those of the values that are divided by the number of photographs, so that a sum
            over all places is a mean over the photographs.
    """

    component: str
    count: int
    size: tuple[int, int]
    kept: Mapping[str, tuple[int, ...]]
    shared: tuple[str, ...] = ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the value: one, then the places, then what is kept."""
        return {name: (1, self.count, *shape) for name, shape in self.kept.items()}

    def none(self, like: torch.Tensor) -> Values:
        """The values without a photograph: zeros, of the type and on the device of `like`."""
        return {name: like.new_zeros(shape) for name, shape in self.shapes.items()}


@dataclass(frozen=True)
class Wiring:
    """All calls of a model, in running order, and what their values are.

    Attributes:
        calls: Those before the process, those of each step, and those after it.
        ratios: Of the values that are maps [B, C, h, w] of the image: their side by that of `lr`.
            A value that is not here is no such map, and is never cut into tiles.
        images: The images that a model takes beside `lr`: name -> height and width, which are
            fixed. They are float [B, 3, height, width] in [0, 1].
        references: What is kept of photographs that it refers to; None for a model without.

    Raises:
        ValueError: A value is read before it is made, is made twice, or one is missing.
    """

    calls: tuple[Call, ...]
    ratios: Mapping[str, float]
    images: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    references: References | None = None

    def __post_init__(self) -> None:
        known = {LR, *self.given}
        of_steps: set[str] = set()
        for call in self.calls:
            if call.between or call.aside:
                continue
            allowed = known | of_steps | set(OF_PROCESS) if call.each_step else known
            after = not call.each_step and self._is_after(call)
            missing = set(call.inputs) - allowed - ({CLEAN_LATENT} if after else set())
            if missing:
                raise ValueError(f"{call.component} reads {min(missing)}, which nothing made")
            twice = set(call.outputs) & (known | of_steps)
            if twice:
                raise ValueError(f"{call.component} makes {min(twice)} a second time")
            (of_steps if call.each_step else known).update(call.outputs)
        has_steps = any(call.each_step for call in self.calls)
        if (has_steps and PREDICTION not in of_steps) or IMAGE not in known:
            raise ValueError("no call of a step makes the prediction, or none after it the image")

    @property
    def kept(self) -> tuple[str, ...]:
        """The values that are kept of references."""
        return () if self.references is None else tuple(self.references.kept)

    @property
    def given(self) -> tuple[str, ...]:
        """What a model is given beside the low-resolution image: images, and what was kept."""
        return *self.images, *self.kept

    def _is_after(self, call: Call) -> bool:
        """Whether a call needs the clean latent, itself or through what it reads."""
        late = {CLEAN_LATENT}
        for earlier in self.calls:
            if not earlier.in_process and not earlier.aside and late.intersection(earlier.inputs):
                late.update(earlier.outputs)
        return bool(late.intersection(call.inputs))

    @property
    def before(self) -> tuple[Call, ...]:
        """The calls before the process."""
        once = (c for c in self.calls if not c.in_process and not c.aside)
        return tuple(c for c in once if not self._is_after(c))

    @property
    def steps(self) -> tuple[Call, ...]:
        """The calls of each step."""
        return tuple(c for c in self.calls if c.each_step)

    @property
    def after(self) -> tuple[Call, ...]:
        """The calls that need the clean latent."""
        once = (c for c in self.calls if not c.in_process and not c.aside)
        return tuple(c for c in once if self._is_after(c))

    @property
    def between(self) -> tuple[Call, ...]:
        """The calls that only the process makes."""
        return tuple(c for c in self.calls if c.between)

    def call(self, component: str) -> Call:
        """The call of a component.

        Raises:
            KeyError: There is none.
        """
        for call in self.calls:
            if call.component == component:
                return call
        raise KeyError(component)

    def names_before(self, component: str) -> set[str]:
        """The values that there are once the calls before a component have run.

        For a component of the steps they are those that there are before the process.
        """
        call = self.call(component)
        names = {LR, *self.given}
        earlier = self.before
        if call in earlier:
            earlier = earlier[: earlier.index(call)]
        elif not call.in_process:
            names.add(CLEAN_LATENT)
            earlier += self.after[: self.after.index(call)]
        for other in earlier:
            names.update(other.outputs)
        return names

    def read_by_steps(self) -> tuple[str, ...]:
        """The values that the calls of a step read from before the process, each once."""
        made = {name for call in self.steps for name in call.outputs}
        names = [name for call in self.steps for name in call.inputs]
        return tuple(dict.fromkeys(n for n in names if n not in made and n not in OF_PROCESS))


def plain(latent_ratio: float = 0.5, several_steps: bool = False) -> Wiring:
    """The wiring of encoder, denoiser and decoder, with a text encoder where there is one.

    Args:
        latent_ratio: Side of the latent by side of the input.
        several_steps: Whether the denoiser is told the timestep.
    """
    step = (STATE, "context", TIMESTEP) if several_steps else (STATE, "context")
    calls = (
        Call("text_encoder", (), ("context",)),
        Call("encoder", (LR,), (LATENT,)),
        Call("denoiser", step, (PREDICTION,), each_step=True),
        Call("decoder", (CLEAN_LATENT,), (IMAGE,)),
    )
    return Wiring(calls, map_ratios(latent_ratio))


def one_network() -> Wiring:
    """The wiring of a model of one network and no steps, the decoder, whose latent is the input.

    Its process is `compress.process.straight.Straight`.
    """
    return Wiring((Call("decoder", (CLEAN_LATENT,), (IMAGE,)),), map_ratios(1.0))


def name_in_model(component: str, path: str) -> str:
    """The full name of a module.

    Args:
        component: Its component's name.
        path: Its name in the component; empty for the component itself, which may be a bare layer.
    """
    return f"{component}.{path}" if path else component


def told(steps: int) -> tuple[str, ...]:
    """The input of a component of a step by which it is told the timestep: with several steps."""
    return (TIMESTEP,) if steps > 1 else ()


def map_ratios(latent_ratio: float, scale: float = 4.0, **others: float) -> dict[str, float]:
    """The ratios of the values that every model has, and of `others`."""
    latents = dict.fromkeys((LATENT, STATE, PREDICTION, CLEAN_LATENT), latent_ratio)
    return {LR: 1.0, **latents, IMAGE: scale, **others}


def run_calls(
    owner: nn.Module, calls: Sequence[Call], values: Values, watch: Watch | None = None
) -> None:
    """Run calls, and add what they make to `values`.

    A call is left out where all that it makes is there already. Where `owner` lacks the component
    the values are None.

    Args:
        owner: Has the components as attributes.
        calls: In running order.
        values: What there is.
        watch: Told of each call that was run.
    """
    for call in calls:
        if all(name in values for name in call.outputs):
            continue
        component = getattr(owner, call.component, None)
        if component is None:
            values |= dict.fromkeys(call.outputs)
            continue
        inputs = tuple(values[name] for name in call.inputs)
        result = component(*inputs)
        outputs = (result,) if len(call.outputs) == 1 else tuple(result)
        values |= dict(zip(call.outputs, outputs, strict=True))
        if watch is not None:
            watch(call, inputs, outputs)
