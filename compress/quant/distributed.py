"""Distributed calibration (PassionSR's DQC, section 3.4): one component after another, each on the output of the
already quantised ones before it, first the equivalent transforms, then the boundaries."""

from collections.abc import Callable

import torch
from torch import nn
from tqdm import tqdm

from compress.model import SRModel
from compress.quant.equivalent import initial_scale, input_channel_max
from compress.quant.fit import Transform, freeze
from compress.quant.layers import QuantLayer
from compress.quant.sites import Site, find_sites

Run = Callable[[torch.Tensor], torch.Tensor]


def quant_layers(component: nn.Module) -> list[tuple[str, QuantLayer]]:
    return [(name, m) for name, m in component.named_modules() if isinstance(m, QuantLayer)]


def set_mode(component: nn.Module, mode: str) -> None:
    for _, layer in quant_layers(component):
        layer.fit.mode = mode


def relative_error(y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean square error over the target's mean square."""
    return (y.float() - target).square().mean() / target.square().mean()


def mean_error(run: Run, inputs: list[torch.Tensor], targets: list[torch.Tensor]) -> float:
    with torch.no_grad():
        return sum(relative_error(run(x), t).item() for x, t in zip(inputs, targets, strict=True)) / len(inputs)


def observe(component: nn.Module, run: Run, inputs: list[torch.Tensor]) -> None:
    """Watch the inputs of all layers of `component` in float."""
    set_mode(component, "observe")
    with torch.no_grad():
        for x in inputs:
            run(x)
    set_mode(component, "float")


def start(component: nn.Module, search_inputs: bool, search_weights: bool) -> None:
    for _, layer in quant_layers(component):
        layer.fit.start(layer, search_inputs, search_weights)


def best_start(component: nn.Module, run: Run, inputs: list[torch.Tensor], targets: list[torch.Tensor]
               ) -> tuple[float, list[bool]]:
    """Boundaries as observed or as searched, of inputs and of weights: what leaves the component's output nearest.

    A search is for one layer's own least square error, which now and then costs the result more than it saves.
    Returns the mean error and what was searched.
    """
    choices = [(False, False), (False, True), (True, False), (True, True)]
    errors = []
    for choice in choices:
        start(component, *choice)
        errors.append(mean_error(run, inputs, targets))
    least = min(errors)
    best = choices[errors.index(least)]
    start(component, *best)
    return least, list(best)


def add_transforms(component: nn.Module, alpha: float) -> list[tuple[Site, Transform]]:
    """A transform for every site, initialised from the observed channels: offset to their middle, scale by alpha."""
    added = []
    for site in find_sites(component):
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


def learn(name: str, parameters: list[nn.Parameter], run: Run, inputs: list[torch.Tensor],
          targets: list[torch.Tensor], epochs: int, lr: float, seed: int) -> tuple[float, float]:
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


def fit_component(name: str, component: nn.Module, run: Run, inputs: list[torch.Tensor], targets: list[torch.Tensor],
                  *, search: bool, transforms: bool, alpha: float, epochs: int, lr: float, seed: int,
                  transform_run: Run | None = None, transform_targets: list[torch.Tensor] | None = None) -> dict:
    """Observe, transform, learn and freeze one component; returns its calibration errors for the ledger.

    `run` maps an input to what `targets` hold. Transforms may be learned against another output of the same
    component (`transform_run`, `transform_targets`): the denoiser's predictions instead of the clean latent.
    """
    observe(component, run, inputs)
    set_mode(component, "quantise")
    figures: dict = {"layers": len(quant_layers(component))}
    if search:
        figures["start_error"], figures["searched_inputs_weights"] = best_start(component, run, inputs, targets)
    else:
        start(component, False, False)
        figures["start_error"] = mean_error(run, inputs, targets)
    sites = add_transforms(component, alpha) if transforms else []
    if sites:
        start(component, search, search)
        parameters = [p for _, transform in sites for p in transform.parameters()]
        figures["transform_error"] = learn(f"{name}: transforms", parameters, transform_run or run, inputs,
                                           transform_targets or targets, epochs, lr, seed)
        # Boundaries belong to the transformed tensors, so they start anew; transforms stay only if they pay.
        error, searched = best_start(component, run, inputs, targets)
        if error < figures["start_error"]:
            figures |= {"start_error": error, "searched_inputs_weights": searched}
        else:
            for _, layer in quant_layers(component):
                layer.fit.transform = None
            sites = []
            start(component, *figures["searched_inputs_weights"])
    figures["transforms"] = len(sites)
    if search:
        parameters = [p for _, layer in quant_layers(component) for p in layer.fit.boundaries()]
        figures["boundary_error"] = learn(f"{name}: boundaries", parameters, run, inputs, targets, epochs, lr, seed)
    for site, transform in sites:
        site.fold(transform)
    for _, layer in quant_layers(component):
        freeze(layer)
    return figures


def fit_model(model: SRModel, source: SRModel, images: list[torch.Tensor], components: tuple[str, ...],
              **options) -> dict[str, dict]:
    """Fit the quantised components of `model` in the order encoder, denoiser, decoder against `source`, the same
    model before its quantisation.

    `images` are low-resolution calibration images [1, 3, h, w] in [0, 1], of legal sizes.
    """
    with torch.no_grad():
        latents = [source.encoder(x) for x in images]
        context = source.context()
        predictions = [torch.cat(source.predictions(z, context)) for z in latents]
        clean = [source.clean_latent(z, context) for z in latents]
        restored = [source.decoder(z) for z in clean]
    figures = {}
    if "encoder" in components:
        figures["encoder"] = fit_component("encoder", model.encoder, model.encoder, images, latents, **options)
    with torch.no_grad():
        inputs = [model.encoder(x) for x in images]
    if "denoiser" in components:
        own = model.context()
        figures["denoiser"] = fit_component(
            "denoiser", model.denoiser, lambda z: model.clean_latent(z, own), inputs, clean,
            transform_run=lambda z: torch.cat(model.predictions(z, own)), transform_targets=predictions, **options)
    with torch.no_grad():
        inputs = [model.clean_latent(z) for z in inputs]
    if "decoder" in components:
        figures["decoder"] = fit_component("decoder", model.decoder, model.decoder, inputs, restored, **options)
    return figures
