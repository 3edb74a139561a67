"""Distributed calibration (PassionSR's DQC, section 3.4).

One component after another is fitted, each on the output of the already quantised ones before it:
first the equivalent transforms, then the boundaries. This file fits one component; the order is in
schedule.py.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from compress.quant.correction import correct_biases
from compress.quant.equalise import add_equalising, find_pairs
from compress.quant.equivalent import Transform, initial_scale, input_channel_max
from compress.quant.explicit import add_explicit
from compress.quant.fit import freeze, freeze_range, layer_fit, range_fit
from compress.quant.flow import Flow
from compress.quant.objective import Objective, Schedule, learn
from compress.quant.ranges import (
    best_start,
    observe,
    quant_layers,
    quantisers,
    set_mode,
    start_ranges,
)
from compress.quant.rounding import round_weights
from compress.quant.sites import Site, find_sites

Sites = list[tuple[Site, Transform]]


@dataclass(frozen=True)
class Options:
    """What calibration does beyond observing.

    Attributes:
        search: Whether boundaries are searched and learned.
        transforms: Whether there are equivalent transforms.
        equalise: Whether neighbouring convolutions share their ranges out (equalise.py).
        feedback: Whether weights are rounded with error feedback (rounding.py).
        bias: Whether biases are corrected (correction.py).
        distributed: Whether a component is calibrated on what the quantised ones before it put out,
            and not on the float ones'.
        alpha: How much range a transform moves at first, in [0, 1].
        epochs: How often every image is seen; 0 learns nothing.
        lr: Adam's learning rate.
        batch: Images in a step.
        seed: Of the order of images.
        order: `forward` fits each component against its own float output. `backward` fits from the
            decoder to the encoder against the restored image (schedule.py).
        polish: Epochs in which all boundaries are learned together at the end.
    """

    search: bool = True
    transforms: bool = True
    equalise: bool = False
    feedback: bool = False
    bias: bool = False
    distributed: bool = True
    alpha: float = 0.3
    epochs: int = 2
    lr: float = 1e-3
    batch: int = 1
    seed: int = 0
    order: str = "forward"
    polish: int = 0

    @property
    def schedule(self) -> Schedule:
        """How long and how fast a component's parameters are learned."""
        return Schedule(self.epochs, self.lr, self.seed, self.batch)


@dataclass
class Fitted:
    """A component in its learning state, which remains to be frozen.

    Attributes:
        component: The module.
        figures: For the ledger.
        sites: What folds where once the component is frozen.
    """

    component: nn.Module
    figures: dict
    sites: Sites = field(default_factory=list)

    def boundaries(self) -> list[nn.Parameter]:
        """What is learned once the transforms are: all logarithmic factors of ranges."""
        of_tensors = [range_fit(q).log for q in quantisers(self.component) if not q.pinned]
        fits = [layer_fit(layer) for _, layer in quant_layers(self.component)]
        return of_tensors + [fit.weight_log for fit in fits if fit.rounded is None]

    def freeze(self) -> dict:
        """Fold the transforms and write codes and ranges; returns the figures."""
        for site, transform in self.sites:
            site.fold(transform)
        folded: set[nn.Module] = set()
        for site, _ in self.sites:
            folded.update(site.consumers)
        for _, layer in quant_layers(self.component):
            freeze(layer, layer in folded)
        for quantiser in quantisers(self.component):
            freeze_range(quantiser)
        return self.figures


def add_transforms(component: nn.Module, alpha: float) -> Sites:
    """Give every site a transform: the offset to the middle of a channel, the scale by `alpha`.

    Args:
        component: Observed.
        alpha: How much of the range moves, in [0, 1].

    Returns:
        The sites that have one now, each with its transform.
    """
    added = []
    for site in find_sites(component):
        is_finished = any(layer.fit is None for layer in site.consumers)
        if is_finished or getattr(site.producer, "fit", site) is None:
            continue  # of an earlier pass
        fits = [layer_fit(layer) for layer in site.consumers]
        low = fits[0].channel_low
        high = fits[0].channel_high
        if site.has_offset:
            offset = (low + high) / 2
            reach = (high - low) / 2
        else:
            offset = None
            reach = torch.maximum(-low, high)
        weights = torch.stack([input_channel_max(fit.weight) for fit in fits]).amax(0)
        transform = Transform(initial_scale(reach, weights, alpha), offset)
        for fit in fits:
            fit.transform = transform
        added.append((site, transform))
    return added


def add_folding_transforms(component: nn.Module, flow: Flow | None, options: Options) -> Sites:
    """Add all transforms that fold away: of sites, and of neighbouring convolutions."""
    sites = add_transforms(component, options.alpha) if options.transforms else []
    if options.equalise and flow is not None:
        sites += add_equalising(find_pairs(component, flow))
    return sites


def drop_transforms(component: nn.Module) -> None:
    """Take the transforms from all layers that are being fitted."""
    for _, layer in quant_layers(component):
        layer_fit(layer).transform = None


def fit_component(
    name: str,
    component: nn.Module,
    objective: Objective,
    options: Options,
    flow: Flow | None = None,
    transform_objective: Objective | None = None,
) -> Fitted:
    """Observe, transform, learn and round one component.

    Args:
        name: Of the component, for progress bars.
        component: Converted, its quantisers in the learning state.
        objective: Says how near its output is to the float model's.
        options: What is done.
        flow: Recorded from it; None leaves equalising out.
        transform_objective: Another output of the same component that transforms are learned
            against: the denoiser's predictions instead of the clean latent.

    Returns:
        The component, which remains to be frozen.

    Raises:
        UserError: A tensor can be given no range (`observe`).
    """
    observe(component, objective.run, objective.inputs)
    set_mode(component, "quantise")
    count = len(quant_layers(component))
    figures: dict = {"layers": count, "quantisers": len(quantisers(component))}
    error, searched = _start(component, objective, options)
    sites = add_folding_transforms(component, flow, options)
    explicit = add_explicit(quant_layers(component)) if options.transforms else []
    if sites or explicit:
        if options.epochs > 0:
            start_ranges(component, *searched)
            figures["transform_error"] = learn(
                f"{name}: transforms",
                _transform_parameters(component),
                transform_objective or objective,
                options.schedule,
            )
        # Boundaries belong to the transformed tensors, so they start anew. Transforms stay only if
        # they pay.
        transformed, searched_anew = _start(component, objective, options, error)
        if transformed < error:
            error = transformed
            searched = searched_anew
        else:
            drop_transforms(component)
            sites = []
            explicit = []
            start_ranges(component, *searched)
    figures["start_error"] = error
    figures["searched"] = list(searched)
    figures["transforms"] = len(sites)
    figures["explicit_transforms"] = explicit
    fitted = Fitted(component, figures, sites)
    if options.search:
        figures["boundary_error"] = learn(
            f"{name}: boundaries", fitted.boundaries(), objective, options.schedule, error
        )
        error = figures["boundary_error"][1]
    refine(fitted, objective, options, error)
    return fitted


def _start(
    component: nn.Module, objective: Objective, options: Options, limit: float = math.inf
) -> tuple[float, tuple[bool, ...]]:
    """Set the initial boundaries; returns the mean error and what was searched."""
    if options.search:
        return best_start(component, objective, limit)
    start_ranges(component, False, False)
    return objective.mean_error(limit), (False, False)


def _transform_parameters(component: nn.Module) -> list[nn.Parameter]:
    """The parameters of all transforms, each once: several layers may share one."""
    parameters: dict[int, nn.Parameter] = {}
    for _, layer in quant_layers(component):
        transform = layer_fit(layer).transform
        if transform is not None:
            parameters |= {id(p): p for p in transform.parameters()}
    return list(parameters.values())


def refine(fitted: Fitted, objective: Objective, options: Options, error: float) -> None:
    """Round with error feedback and correct biases, each kept only where the error falls.

    Args:
        fitted: Its boundaries are learned. Figures are added.
        objective: Says what the error is.
        options: Says which of the two are done.
        error: As it is.
    """
    layers = quant_layers(fitted.component)
    if options.feedback:
        round_weights(layers, objective.run, objective.inputs)
        rounded = objective.mean_error()
        fitted.figures["rounding_error"] = (error, rounded)
        if rounded < error:
            error = rounded
        else:
            for _, layer in layers:
                layer_fit(layer).rounded = None
    if options.bias:
        count = correct_biases(layers, objective.run, objective.inputs)
        corrected = objective.mean_error()
        fitted.figures["bias_error"] = (error, corrected)
        if corrected >= error:
            count = 0
            for _, layer in layers:
                layer_fit(layer).shift = None
        fitted.figures["corrected_biases"] = count
