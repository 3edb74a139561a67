"""Distributed calibration (PassionSR's DQC, section 3.4): one component after another, each on the output of the
already quantised ones before it, first the equivalent transforms, then the boundaries."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from tqdm import tqdm

from compress.core.errors import UserError
from compress.quant.correction import correct_biases
from compress.quant.equalise import add_equalising, find_pairs
from compress.quant.equivalent import initial_scale, input_channel_max
from compress.quant.explicit import add_explicit
from compress.quant.fit import LayerFit, RangeFit, Transform, freeze, freeze_range
from compress.quant.flow import Flow
from compress.quant.layers import QuantLayer, TensorQuantiser
from compress.quant.rounding import round_weights
from compress.quant.sites import Site, find_sites

Run = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Options:
    """What calibration does beyond observing. `epochs` 0 learns nothing, `distributed` False calibrates every component
    on what the float ones before it put out."""

    search: bool = True
    transforms: bool = True
    equalise: bool = False
    feedback: bool = False  # rounding with error feedback (rounding.py)
    bias: bool = False
    distributed: bool = True
    alpha: float = 0.3
    epochs: int = 2
    lr: float = 1e-3
    seed: int = 0


def quant_layers(component: nn.Module) -> list[tuple[str, QuantLayer]]:
    """The quantised layers that are being fitted; those of an earlier pass are finished."""
    return [
        (name, m)
        for name, m in component.named_modules()
        if isinstance(m, QuantLayer) and m.fit is not None
    ]


def quantisers(component: nn.Module) -> list[TensorQuantiser]:
    """All of a component that are being fitted: of layers' inputs and outputs, and between operators."""
    return [m for m in component.modules() if isinstance(m, TensorQuantiser) and m.fit is not None]


def set_mode(component: nn.Module, mode: str) -> None:
    for module in component.modules():
        if isinstance(module, (LayerFit, RangeFit)):
            module.mode = mode


def relative_error(y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean square error over the target's mean square."""
    return (y.float() - target).square().mean() / target.square().mean()


def mean_error(run: Run, inputs: list[torch.Tensor], targets: list[torch.Tensor]) -> float:
    with torch.no_grad():
        return sum(
            relative_error(run(x), t).item() for x, t in zip(inputs, targets, strict=True)
        ) / len(inputs)


def observe(component: nn.Module, run: Run, inputs: list[torch.Tensor]) -> None:
    """Watch the tensors that have quantisers in float. Raises UserError for one that no range can be given to."""
    set_mode(component, "observe")
    with torch.no_grad():
        for x in inputs:
            run(x)
    set_mode(component, "float")
    for name, module in component.named_modules():
        if isinstance(module, LayerFit):
            low, high, name = (
                module.channel_low,
                module.channel_high,
                name.removesuffix(".fit") + "'s input",
            )
        elif (
            isinstance(module, TensorQuantiser)
            and module.fit is not None
            and not name.endswith(".input")
        ):
            low, high, name = (
                module.fit.low,
                module.fit.high,
                name.replace("points.table.", "").replace("/", "."),
            )
        else:
            continue
        if low is None:
            raise UserError(
                f"pass 'quantize': {name} was never computed on the calibration images, so it has no "
                "range; leave it in float with skip"
            )
        if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
            raise UserError(
                f"pass 'quantize': {name} has values that are not finite on the calibration images; check "
                "the weights of the model, which gives such values without quantisation too"
            )


def start(
    component: nn.Module, search_inputs: bool, search_weights: bool, search_between: bool = False
) -> None:
    """Initial boundaries of layers' inputs and weights, and of all other tensors (`search_between`)."""
    of_inputs = set()
    for _, layer in quant_layers(component):
        layer.fit.start(layer, search_inputs, search_weights)
        of_inputs.add(layer.input)
    for quantiser in quantisers(component):
        if quantiser not in of_inputs:
            quantiser.fit.start(quantiser, search_between)


def best_start(
    component: nn.Module, run: Run, inputs: list[torch.Tensor], targets: list[torch.Tensor]
) -> tuple[float, list[bool]]:
    """Boundaries as observed or as searched, of inputs, weights and other tensors: what leaves the output nearest.

    A search is for one tensor's own least square error, which now and then costs the result more than it saves.
    Returns the mean error and what was searched.
    """

    def error(*choice: bool) -> float:
        start(component, *choice)
        return mean_error(run, inputs, targets)

    errors = {
        choice: error(*choice)
        for choice in [(False, False), (False, True), (True, False), (True, True)]
    }
    best = min(errors, key=errors.get)
    least = errors[best]
    layers = {layer.input for _, layer in quant_layers(component)}
    if any(q not in layers and not q.pinned for q in quantisers(component)):
        searched = error(*best, True)
        best, least = ((*best, True), searched) if searched < least else ((*best, False), least)
    start(component, *best)
    return least, list(best)


def add_transforms(component: nn.Module, alpha: float) -> list[tuple[Site, Transform]]:
    """A transform for every site, initialised from the observed channels: offset to their middle, scale by alpha."""
    added = []
    for site in find_sites(component):
        if (
            any(c.fit is None for c in site.consumers)
            or getattr(site.producer, "fit", site) is None
        ):
            continue  # of an earlier pass
        fit = site.consumers[0].fit
        low, high = fit.channel_low, fit.channel_high
        offset = (low + high) / 2 if site.has_offset else None
        reach = (high - low) / 2 if site.has_offset else torch.maximum(-low, high)
        weights = torch.stack([input_channel_max(c.fit.weight) for c in site.consumers]).amax(0)
        transform = Transform(initial_scale(reach, weights, alpha), offset)
        for consumer in site.consumers:
            consumer.fit.transform = transform
        added.append((site, transform))
    return added


def learn(
    name: str,
    parameters: list[nn.Parameter],
    run: Run,
    inputs: list[torch.Tensor],
    targets: list[torch.Tensor],
    epochs: int,
    lr: float,
    seed: int,
) -> tuple[float, float]:
    """Adam on `parameters` against relative error, one image a step; the best epoch's values are kept.

    Returns the mean error before and after; learning never makes it worse on the calibration images.
    """
    before = best = mean_error(run, inputs, targets)
    kept = [p.detach().clone() for p in parameters]
    if not parameters or epochs == 0:
        return before, best
    optimizer = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(inputs))
    order = torch.Generator().manual_seed(seed)
    bar = tqdm(total=epochs * len(inputs), desc=name, leave=False)
    for _ in range(epochs):
        for i in torch.randperm(len(inputs), generator=order).tolist():
            loss = relative_error(run(inputs[i]), targets[i])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
            bar.set_postfix(error=f"{loss.item():.2e}", refresh=False)
        error = mean_error(run, inputs, targets)
        if error < best:
            best, kept = error, [p.detach().clone() for p in parameters]
    bar.close()
    with torch.no_grad():
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)
    return before, best


@dataclass
class Fitted:
    """A component in its learning state: what folds where once it is frozen, and figures for the ledger."""

    component: nn.Module
    figures: dict
    sites: list[tuple[Site, Transform]] = field(default_factory=list)

    def boundaries(self) -> list[nn.Parameter]:
        """What is learned once the transforms are: all logarithmic factors of ranges."""
        ranges = [q.fit.log for q in quantisers(self.component) if not q.pinned]
        return ranges + [
            layer.fit.weight_log
            for _, layer in quant_layers(self.component)
            if layer.fit.rounded is None
        ]

    def freeze(self) -> dict:
        """Fold the transforms, write codes and ranges; returns the figures."""
        for site, transform in self.sites:
            site.fold(transform)
        folded = {layer for site, _ in self.sites for layer in site.consumers}
        for _, layer in quant_layers(self.component):
            freeze(layer, layer in folded)
        for quantiser in quantisers(self.component):
            freeze_range(quantiser)
        return self.figures


def add_all_transforms(
    component: nn.Module, flow: Flow | None, options: Options
) -> list[tuple[Site, Transform]]:
    """Those that fold away, then (in layers with room for them) those that do not; returns the first."""
    sites = add_transforms(component, options.alpha) if options.transforms else []
    if options.equalise and flow is not None:
        sites += add_equalising(find_pairs(component, flow))
    return sites


def drop_transforms(component: nn.Module) -> None:
    for _, layer in quant_layers(component):
        layer.fit.transform = None


def fit_component(
    name: str,
    component: nn.Module,
    run: Run,
    inputs: list[torch.Tensor],
    targets: list[torch.Tensor],
    options: Options,
    flow: Flow | None = None,
    transform_run: Run | None = None,
    transform_targets: list[torch.Tensor] | None = None,
) -> Fitted:
    """Observe, transform, learn and round one component; what remains is to `freeze` it.

    `run` maps an input to what `targets` hold. Transforms may be learned against another output of the same
    component (`transform_run`, `transform_targets`): the denoiser's predictions instead of the clean latent.
    """
    observe(component, run, inputs)
    set_mode(component, "quantise")
    layers = quant_layers(component)
    figures: dict = {"layers": len(layers), "quantisers": len(quantisers(component))}

    def best() -> tuple[float, list[bool]]:
        if options.search:
            return best_start(component, run, inputs, targets)
        start(component, False, False)
        return mean_error(run, inputs, targets), [False, False]

    error, searched = best()
    sites = add_all_transforms(component, flow, options)
    explicit = add_explicit(layers) if options.transforms else []
    if sites or explicit:
        start(component, *searched)
        parameters = list(
            {
                id(p): p
                for _, layer in layers
                if layer.fit.transform is not None
                for p in layer.fit.transform.parameters()
            }.values()
        )
        figures["transform_error"] = learn(
            f"{name}: transforms",
            parameters,
            transform_run or run,
            inputs,
            transform_targets or targets,
            options.epochs,
            options.lr,
            options.seed,
        )
        # Boundaries belong to the transformed tensors, so they start anew; transforms stay only if they pay.
        transformed, anew = best()
        if transformed < error:
            error, searched = transformed, anew
        else:
            drop_transforms(component)
            sites, explicit = [], []
            start(component, *searched)
    figures |= {
        "start_error": error,
        "searched": searched,
        "transforms": len(sites),
        "explicit_transforms": explicit,
    }
    fitted = Fitted(component, figures, sites)
    if options.search:
        figures["boundary_error"] = learn(
            f"{name}: boundaries",
            fitted.boundaries(),
            run,
            inputs,
            targets,
            options.epochs,
            options.lr,
            options.seed,
        )
    refine(fitted, run, inputs, targets, options)
    return fitted


def refine(
    fitted: Fitted,
    run: Run,
    inputs: list[torch.Tensor],
    targets: list[torch.Tensor],
    options: Options,
) -> None:
    """Rounding with error feedback and bias correction, each kept only where the component's error falls."""
    layers = quant_layers(fitted.component)
    error = mean_error(run, inputs, targets)
    if options.feedback:
        round_weights(fitted.component, layers, run, inputs)
        rounded = mean_error(run, inputs, targets)
        fitted.figures["rounding_error"] = (error, rounded)
        if rounded < error:
            error = rounded
        else:
            for _, layer in layers:
                layer.fit.rounded = None
    if options.bias:
        count = correct_biases(layers, run, inputs)
        corrected = mean_error(run, inputs, targets)
        fitted.figures["bias_error"] = (error, corrected)
        if corrected >= error:
            count = 0
            for _, layer in layers:
                layer.fit.shift = None
        fitted.figures["corrected_biases"] = count
