"""A model with quantised layers to probe, and its run, stage by stage."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from compress.data.calibration import as_values
from compress.model.calls import Values, name_in_model, run_calls
from compress.model.sr_model import SRModel
from compress.passes.quantize import Quantize
from compress.quant.layers import QuantLayer, SplitConv2d
from compress.quant.ranges import observe, set_mode, start_ranges


class Stages:
    """What the model makes of the images, stage by stage.

    So only what follows a change runs again.

    Attributes:
        model: What is run.
        inputs: What there is before each component, by its name, for each image.
        restored: The images [1, 3, 4h, 4w] in [0, 1] with the model as it was at first.
    """

    @torch.no_grad()
    def __init__(self, model: SRModel, images: list[torch.Tensor]):
        """Run `model` on low-resolution `images` [1, 3, h, w] in [0, 1]."""
        self.model = model
        constants = model.constants()
        known = [{**given, **constants} for given in as_values(model, images)]
        self.inputs: dict[str, list[Values]] = {}
        for name, _ in model.components():
            known = [model.values_before(name, values) for values in known]
            self.inputs[name] = known
        self.restored = [model.image_of(values).clamp(0, 1) for values in known]

    @torch.no_grad()
    def restore(self, part: str) -> list[torch.Tensor]:
        """The images [1, 3, 4h, 4w] in [0, 1] with the model as it is now.

        Args:
            part: The component from which on it runs again.
        """
        return [self.model.image_of(values).clamp(0, 1) for values in self.inputs[part]]


def probing(step: Quantize) -> Quantize:
    """The pass as it is probed: layers' own quantisers alone."""
    return step.model_copy(
        update={
            "placement": "compat",
            "attention": False,
            "outputs": (),
            "norm_stride": 1,
            "transforms": False,
            "explicit": False,
            "equalise": False,
        }
    )


def probed_layers(step: Quantize, model: SRModel) -> list[str]:
    """Full names of the layers that `step` quantises, in the order of the components.

    A layer that was split in halves counts as one.
    """
    twin = copy.deepcopy(model)
    step.convert(twin)
    names: list[str] = []
    for part, component in twin.components():
        if part in step.components:
            names += [name_in_model(part, name) for name in _layers_in(component)]
    return names


def _layers_in(component: nn.Module) -> list[str]:
    names = []
    inside: tuple[str, ...] = ()  # how names of parts of split layers begin
    for name, module in component.named_modules():
        if name.startswith(inside):
            continue
        if isinstance(module, SplitConv2d):
            inside = (*inside, f"{name}.")
            names.append(name)
        elif isinstance(module, QuantLayer):
            names.append(name)
    return names


def _run_of(model: SRModel, part: str) -> Callable[[Values], torch.Tensor | None]:
    """A component as a function of what there is before it; all steps of one that has several."""
    call = model.wiring.call(part)
    if call.each_step:
        return model.restore
    return lambda values: run_calls(model, [call], dict(values))


def prepared(step: Quantize, model: SRModel, stages: Stages) -> SRModel:
    """A copy of `model` converted by `step`, with all its layers quantised.

    Args:
        step: As `probing` gives it.
        model: The float model.
        stages: Of the float model. Ranges begin with what its components put out.
    """
    twin = copy.deepcopy(model)
    step.convert(twin)
    search = step.method == "passionsr" and "lbq" not in step.ablate
    for part in step.components:  # until its turn, for a process may call it between steps
        set_mode(twin.get_submodule(part), "float")
    for part in step.components:
        component = twin.get_submodule(part)
        with torch.no_grad():
            observe(component, _run_of(twin, part), stages.inputs[part])
            start_ranges(component, search, search)
        set_mode(component, "quantise")
    return twin


@contextmanager
def swapped(model: SRModel, layer: str, other: nn.Module) -> Iterator[None]:
    """`model` with the module of that name replaced inside."""
    before = model.get_submodule(layer)
    model.set_submodule(layer, other)
    try:
        yield
    finally:
        model.set_submodule(layer, before)
