"""The graphs that a model is exported as: the whole of it, and one per component.

Their names, inputs and outputs follow from the model's calls. A component without inputs is a
constant, which lies in the graphs that read it. Where steps read different constants, such as the
two texts of guidance, they are a graph and the others take them. In a process of one step, what the
process makes of the latent lies in the graph of the component that sees it; with several steps a
host program computes the states, and the graphs take them.
"""

from collections.abc import Callable
from functools import partial
from inspect import Parameter, signature
from typing import Any, NamedTuple

import torch
from torch import nn

from compress.core.errors import UserError
from compress.core.image import MIN_SIDE
from compress.cost.count import meta_copy
from compress.model.calls import LR, OF_PROCESS, PREDICTION, STATE, Call, Values, run_calls
from compress.model.sr_model import SRModel
from compress.process.colour import FIXES
from compress.process.linear_steps import LinearSteps
from compress.quant.by_step import has_ranges_by_step
from compress.routing.step_table import is_linear
from export.graphs.numbers import Numbers, differs

GREY = 0.5  # of the images that a graph is traced with
MAX_STEPS = 512  # of a dynamic side, in what the network takes whole multiples of
MODEL = "model"  # the name of the graph of all
Tensors = tuple[torch.Tensor, ...]


def corrected(model: SRModel, image: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
    """What the graph of the whole model makes of its network's `image`: colour fix and clamp."""
    return FIXES[model.colour_fix](image, lr).clamp(0, 1)


class EndToEnd(nn.Module):
    """The whole model without tiles: network, colour fix and clamp."""

    def __init__(self, model: SRModel):
        super().__init__()
        self.model = model

    def forward(self, lr: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        """`lr` [1, 3, h, w] in [0, 1] -> [1, 3, 4h, 4w] in [0, 1].

        `others` are the further images that the model takes, and what is kept of references.
        """
        images = dict(zip(self.model.wiring.given, others, strict=True))
        return corrected(self.model, self.model.network(lr, images), lr)


class _FirstCall(Exception):  # noqa: N818  no error: it carries what was seen
    """What a component puts out at the first step."""

    def __init__(self, outputs: tuple):
        super().__init__()
        self.outputs = outputs


class Part(nn.Module):
    """A component with the constants that it reads, and with the state of a process of one step.

    Args:
        model: The model.
        call: The component's call.
        inputs: The values that are given.
    """

    def __init__(self, model: SRModel, call: Call, inputs: tuple[str, ...]):
        super().__init__()
        # Without the other networks, so that only this one's layers are counted.
        kept: dict[str, nn.Module | None] = {call.component: getattr(model, call.component)}
        for other in model.wiring.calls:
            if not other.inputs and not differs(model, other):
                kept[other.component] = getattr(model, other.component)
        self.part = SRModel(kept, model.process, wiring=model.wiring)
        self.call = call
        self.inputs = inputs

    def forward(self, *given: torch.Tensor) -> Any:
        """Values in the order of `inputs` -> what the component puts out."""
        values: Values = dict.fromkeys(name for name in self.call.inputs if name not in OF_PROCESS)
        values |= self.part.constants()
        values |= dict(zip(self.inputs, given, strict=True))
        if self.call.each_step and self.part.process.steps == 1:
            outputs = self._at_first_step(values)
        else:
            run_calls(self.part, [self.call], values)
            outputs = tuple(values[name] for name in self.call.outputs)
        if len(outputs) == 1:
            return outputs[0]
        return outputs

    def _at_first_step(self, values: Values) -> tuple:
        seen: list[tuple] = []

        def watch(call: Call, _inputs: tuple, outputs: tuple) -> None:
            seen.append(outputs)
            if PREDICTION not in call.outputs:  # the process cannot go on without a prediction
                raise _FirstCall(outputs)

        try:
            self.part.restore(values, watch)
        except _FirstCall as first:
            return first.outputs
        return seen[0]


class GraphSpec(NamedTuple):
    """What one ONNX file holds: how its module is made, and names of its inputs and outputs."""

    build: Callable[[SRModel], nn.Module]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def graphs_of(model: SRModel) -> dict[str, GraphSpec]:
    """File stem -> graph: `model`, then a component each, in running order.

    What is called `aside` is no part of a run, and has no graph.
    """
    specs = {MODEL: GraphSpec(EndToEnd, (LR, *model.wiring.given), ("sr",))}
    inside = _values_inside(model)
    for name, _ in model.components():
        call = model.wiring.call(name)
        if differs(model, call):
            specs[name] = GraphSpec(partial(Numbers, call=call), (LR,), call.outputs)
        elif call.inputs and not call.aside:
            specs[name] = _spec(model, call, inside)
    return specs


def parts_of(model: SRModel) -> tuple[str, ...]:
    """Names of the graphs of the components, in running order."""
    return tuple(name for name in graphs_of(model) if name != MODEL)


def has_parts(model: SRModel) -> bool:
    """Whether a graph a component makes sense: one step or none, or steps that a host can do.

    It cannot where a step has ranges of its own: those lie in the graphs.
    """
    process = model.process
    if has_ranges_by_step(model):
        return False
    return is_linear(process) or isinstance(process, LinearSteps) or process.steps <= 1


def check_process(model: SRModel) -> None:
    """Refuse a model whose process takes more steps for some images than for others.

    One of weighted sums is a walk that a host program can make.

    Raises:
        UserError: It is such a model.
    """
    if model.process.adaptive and not is_linear(model.process):
        raise UserError(
            f"{type(model.process).__name__} decides for each image how many steps it takes, up to "
            f"{model.process.steps}, and an exported file has a fixed number; set a fixed number "
            "of steps in the source"
        )


def build(model: SRModel, stem: str) -> nn.Module:
    """What a graph computes, in evaluation mode."""
    return graphs_of(model)[stem].build(model).eval()


def _values_inside(model: SRModel) -> set[str]:
    """The values that no graph takes: constants, and those that nothing makes."""
    inside: set[str] = set()
    for call in model.wiring.calls:
        is_constant = not call.inputs and not differs(model, call)
        if is_constant or getattr(model, call.component) is None:
            inside.update(call.outputs)
    return inside


def _spec(model: SRModel, call: Call, inside: set[str]) -> GraphSpec:
    names = [name for name in call.inputs if name not in inside]
    if call.each_step and model.process.steps == 1 and STATE in names:
        place = names.index(STATE)
        names[place : place + 1] = model.process.inputs
    inputs = tuple(dict.fromkeys(names))
    if inputs == call.inputs:
        return GraphSpec(partial(_component, name=call.component), inputs, call.outputs)
    return GraphSpec(partial(Part, call=call, inputs=inputs), inputs, call.outputs)


def _component(model: SRModel, name: str) -> nn.Module:
    return getattr(model, name)


def reaching(model: SRModel, stem: str, values: Values) -> list[Tensors]:
    """What reaches a graph, by what there is.

    Args:
        model: The model.
        stem: The graph.
        values: The images, or more; what is there already is not computed again.

    Returns:
        The graph's inputs: one tuple, or one for each step where the graphs take the states.
    """
    inputs = graphs_of(model)[stem].inputs
    if stem == MODEL:
        return [tuple(values[name] for name in inputs)]
    known = model.values_before(stem, values)
    if all(name in known for name in inputs):
        return [tuple(known[name] for name in inputs)]
    steps: list[Tensors] = []
    seen = dict(known)

    def watch(call: Call, arguments: tuple, outputs: tuple) -> None:
        seen.update(zip(call.inputs, arguments, strict=True))
        if call.component == stem:
            steps.append(tuple(seen[name] for name in inputs))
        seen.update(zip(call.outputs, outputs, strict=True))

    model.restore(known, watch)
    return steps


def outputs_of(module: nn.Module, inputs: Tensors) -> Tensors:
    """What a graph's module puts out, one tensor or several, as a tuple."""
    result = module(*inputs)
    if isinstance(result, (tuple, list)):
        return tuple(result)
    return (result,)


def check_size(model: SRModel, lr_size: tuple[int, int]) -> None:
    """Refuse a size that the network does not take without padding.

    Args:
        model: The model.
        lr_size: Height and width of the input.

    Raises:
        UserError: It is such a size.
    """
    if any(side < MIN_SIDE or side % model.multiple for side in lr_size):
        raise UserError(
            f"lr size {lr_size[0]}x{lr_size[1]} (height x width) cannot be exported; both sides "
            f"must be multiples of {model.multiple} from {max(MIN_SIDE, model.multiple)} up"
        )


def example(model: SRModel, stem: str, lr_size: tuple[int, int]) -> Tensors:
    """Inputs of a graph: mid-grey images, or zeros in the shape of what the parts before it give.

    Args:
        model: The model.
        stem: The graph.
        lr_size: Height and width of the low-resolution image.
    """
    images = model.blank(*lr_size)
    names = graphs_of(model)[stem].inputs
    if set(names) <= set(images):
        return tuple(torch.full(images[name].shape, GREY) for name in names)
    twin = meta_copy(model)
    tensors = reaching(twin, stem, images)[0]
    return tuple(
        torch.full(x.shape, GREY) if name in images else torch.zeros(x.shape, dtype=x.dtype)
        for name, x in zip(names, tensors, strict=True)
    )


def dynamic_axes(model: SRModel, stem: str) -> tuple[Any, ...]:
    """Height and width of a graph's inputs for `torch.export`, in multiples of what it takes.

    The batch stays 1, and so do inputs that are no map of the image.
    """
    rows = torch.export.Dim("rows", min=2, max=MAX_STEPS)
    columns = torch.export.Dim("columns", min=2, max=MAX_STEPS)
    axes: list[dict[int, object]] = []
    for name in graphs_of(model)[stem].inputs:
        ratio = model.wiring.ratios.get(name)
        step = 0 if ratio is None else int(model.multiple * ratio)
        axes.append({2: step * rows, 3: step * columns} if step else {})
    # torch.export wants the arguments that `*others` takes as a tuple.
    arguments = signature(build(model, stem).forward).parameters.values()
    alone = sum(one.kind is not Parameter.VAR_POSITIONAL for one in arguments)
    if alone < min(len(axes), len(arguments)):
        return (*axes[:alone], tuple(axes[alone:]))
    return tuple(axes)
