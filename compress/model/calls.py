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

All other names are a model's own, such as `context`, `control`, `reference` or `noise`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
    """

    component: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    each_step: bool = False
    between: bool = False

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
class Wiring:
    """All calls of a model, in running order, and what their values are.

    Attributes:
        calls: Those before the process, those of each step, and those after it.
        ratios: Of the values that are maps [B, C, h, w] of the image: their side by that of `lr`.
            A value that is not here is no such map, and is never cut into tiles.
        images: The images that a model takes beside `lr`: name -> height and width, which are
            fixed. They are float [B, 3, height, width] in [0, 1].

    Raises:
        ValueError: A value is read before it is made, is made twice, or one is missing.
    """

    calls: tuple[Call, ...]
    ratios: Mapping[str, float]
    images: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {LR, *self.images}
        of_steps: set[str] = set()
        for call in self.calls:
            if call.between:
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
        if PREDICTION not in of_steps or IMAGE not in known:
            raise ValueError("no call of a step makes the prediction, or none after it the image")

    def _is_after(self, call: Call) -> bool:
        """Whether a call needs the clean latent, itself or through what it reads."""
        late = {CLEAN_LATENT}
        for earlier in self.calls:
            if not earlier.in_process and late.intersection(earlier.inputs):
                late.update(earlier.outputs)
        return bool(late.intersection(call.inputs))

    @property
    def before(self) -> tuple[Call, ...]:
        """The calls before the process."""
        return tuple(c for c in self.calls if not c.in_process and not self._is_after(c))

    @property
    def steps(self) -> tuple[Call, ...]:
        """The calls of each step."""
        return tuple(c for c in self.calls if c.each_step)

    @property
    def after(self) -> tuple[Call, ...]:
        """The calls that need the clean latent."""
        return tuple(c for c in self.calls if not c.in_process and self._is_after(c))

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
        names = {LR, *self.images}
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
