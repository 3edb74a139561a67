"""Observed ranges and initial boundaries of a component in its learning state."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from compress.core.errors import UserError
from compress.quant.fit import LayerFit, Mode, RangeFit, layer_fit, range_fit
from compress.quant.layers import QuantLayer
from compress.quant.objective import Objective
from compress.quant.quantiser import TensorQuantiser


def quant_layers(component: nn.Module) -> list[tuple[str, QuantLayer]]:
    """(name, layer) of the quantised layers that are being fitted.

    Those of an earlier pass are finished and not among them.
    """
    return [
        (name, m)
        for name, m in component.named_modules()
        if isinstance(m, QuantLayer) and m.fit is not None
    ]


def quantisers(component: nn.Module) -> list[TensorQuantiser]:
    """All that are being fitted: of layers' inputs and outputs, and between operators."""
    return [m for m in component.modules() if isinstance(m, TensorQuantiser) and m.fit is not None]


def set_mode(component: nn.Module, mode: Mode) -> None:
    """Let everything in `component` that is being fitted observe, compute in float, or quantise."""
    for module in component.modules():
        if isinstance(module, (LayerFit, RangeFit)):
            module.mode = mode


class _Observed(NamedTuple):
    """The range of one tensor, under the name that a message gives it."""

    name: str
    is_observed: bool
    low: torch.Tensor
    high: torch.Tensor


def _observed_tensors(component: nn.Module) -> Iterator[_Observed]:
    """The inputs of layers, by channels, and all other tensors with a quantiser."""
    for name, module in component.named_modules():
        owner, _, attribute = name.rpartition(".")
        if isinstance(module, LayerFit):
            label = f"{owner or 'the layer'}'s input"
            yield _Observed(label, module.is_observed, module.channel_low, module.channel_high)
        elif isinstance(module, TensorQuantiser) and attribute != "input":
            fit = module.fit
            if isinstance(fit, RangeFit):
                label = name.replace("points.table.", "").replace("/", ".")
                yield _Observed(label, fit.is_observed, fit.low, fit.high)


@torch.no_grad()
def observe(component: nn.Module, run: Callable[[Any], object], inputs: list[Any]) -> None:
    """Watch the tensors that have quantisers, in float.

    Args:
        component: In its learning state.
        run: Runs it on one input.
        inputs: Of calibration images.

    Raises:
        UserError: A tensor was never computed, or has values that are not finite, so that it can be
            given no range.
    """
    set_mode(component, "observe")
    for x in inputs:
        run(x)
    set_mode(component, "float")
    for tensor in _observed_tensors(component):
        if not tensor.is_observed:
            raise UserError(
                f"pass 'quantize': {tensor.name} was never computed on the calibration images, so "
                "it has no range; leave it in float with skip"
            )
        if not (torch.isfinite(tensor.low).all() and torch.isfinite(tensor.high).all()):
            raise UserError(
                f"pass 'quantize': {tensor.name} has values that are not finite on the calibration "
                "images; check the weights of the model, which gives such values without "
                "quantisation too"
            )


def start_ranges(
    component: nn.Module, search_inputs: bool, search_weights: bool, search_between: bool = False
) -> None:
    """Set the initial boundaries: the extremes, or those of the least square error.

    Args:
        component: Observed.
        search_inputs: Whether to search those of layers' inputs.
        search_weights: Whether to search those of weights.
        search_between: Whether to search those of all other tensors.
    """
    inputs = set()
    for _, layer in quant_layers(component):
        layer_fit(layer).start(layer, search_inputs, search_weights)
        inputs.add(layer.input)
    for quantiser in quantisers(component):
        if quantiser not in inputs:
            range_fit(quantiser).start(quantiser, search_between)


def best_start(
    component: nn.Module, objective: Objective, limit: float = math.inf
) -> tuple[float, tuple[bool, ...]]:
    """Choose what to search: what leaves the output nearest.

    A search is for one tensor's own least square error, which now and then costs the result more
    than it saves.

    Args:
        component: Observed, with quantisers on.
        objective: Says how near the output is.
        limit: Errors from here on are of no interest.

    Returns:
        The mean error, and the arguments of `start_ranges` that give it. They are in effect. Where
        no choice is below `limit`, the error is not either, and the choice is any.
    """
    # Every search once. What one finds does not depend on the others.
    start_ranges(component, True, True, True)
    found = [[(log, log.detach().clone()) for log in logs] for logs in _learned_logs(component)]

    @torch.no_grad()
    def take(choice: tuple[bool, ...]) -> None:
        for logs, is_searched in zip(found, (*choice, False), strict=False):
            for log, value in logs:
                log.copy_(value if is_searched else torch.zeros_like(value))

    def error(choice: tuple[bool, ...], limit: float) -> float:
        take(choice)
        return objective.mean_error(limit)

    choices: list[tuple[bool, ...]] = [(False, False), (False, True), (True, False), (True, True)]
    best = choices[0]
    least = error(best, limit)
    for choice in choices[1:]:
        tried = error(choice, least)
        if tried < least:
            best = choice
            least = tried
    inputs = {layer.input for _, layer in quant_layers(component)}
    if any(q not in inputs and not q.pinned for q in quantisers(component)):
        tried = error((*best, True), least)
        best = (*best, tried < least)
        least = min(tried, least)
    take(best)
    return least, best


def _learned_logs(component: nn.Module) -> tuple[list[nn.Parameter], ...]:
    """The boundaries' factors: of layers' inputs, of weights, of all other tensors."""
    layers = [layer for _, layer in quant_layers(component)]
    inputs = {layer.input for layer in layers if isinstance(layer.input, TensorQuantiser)}
    others = [quantiser for quantiser in quantisers(component) if quantiser not in inputs]
    return (
        [range_fit(quantiser).log for quantiser in inputs],
        [layer_fit(layer).weight_log for layer in layers],
        [range_fit(quantiser).log for quantiser in others],
    )
