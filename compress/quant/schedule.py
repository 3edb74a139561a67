"""In which order the components of a model are fitted, and against what.

`forward` is PassionSR's: encoder, denoiser, decoder, each against its own float output. `backward`
is QArtSR's (arXiv 2503.05584, section 3.3): from the decoder to the encoder, each against the
restored image through the quantised rest, so that errors count by what they do to pixels. `polish`
then learns all boundaries together against the image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from compress.model.sr_model import SRModel
from compress.quant.distributed import Fitted, Options, fit_component
from compress.quant.flow import COMPONENTS, Flow
from compress.quant.objective import Objective, Schedule, learn
from compress.quant.ranges import set_mode


@dataclass(frozen=True)
class FloatOutputs:
    """What the float model makes of the calibration images, one entry an image.

    Attributes:
        images: Low-resolution images, [1, 3, h, w] in [0, 1].
        latents: The encoder's.
        predictions: The denoiser's, of all steps of the process, along the first axis.
        clean: Clean latents.
        restored: The decoder's target: restored images, or the photographs.
        float_error: Where the target is the photographs, the float model's own relative error.
    """

    images: list[torch.Tensor]
    latents: list[torch.Tensor]
    predictions: list[torch.Tensor]
    clean: list[torch.Tensor]
    restored: list[torch.Tensor]
    float_error: float | None


@torch.no_grad()
def float_outputs(
    source: SRModel, images: list[torch.Tensor], references: list[torch.Tensor] | None
) -> FloatOutputs:
    """Run the float model on the calibration images.

    Args:
        source: The model before its quantisation.
        images: [1, 3, h, w] in [0, 1], of legal sizes.
        references: Photographs, [1, 3, 4h, 4w], where they are the decoder's target.
    """
    context = source.context()
    latents = [source.encoder(x) for x in images]
    predictions = [torch.cat(source.predictions(z, context)) for z in latents]
    clean = [source.clean_latent(z, context) for z in latents]
    restored = [source.decoder(z) for z in clean]
    if references is None:
        return FloatOutputs(images, latents, predictions, clean, restored, None)
    total = 0.0
    for image, reference in zip(restored, references, strict=True):
        total += ((image - reference).square().mean() / reference.square().mean()).item()
    error = total / len(images)
    return FloatOutputs(images, latents, predictions, clean, references, error)


def fit_model(
    model: SRModel,
    source: SRModel,
    images: list[torch.Tensor],
    options: Options,
    flows: dict[str, Flow | None],
    references: list[torch.Tensor] | None = None,
) -> dict[str, dict]:
    """Fit the quantised components of `model` against the same model before its quantisation.

    Args:
        model: Converted, its quantisers in the learning state. They are frozen afterwards.
        source: The float model.
        images: Low-resolution calibration images, [1, 3, h, w] in [0, 1], of legal sizes.
        options: What is done.
        flows: The components that are fitted, by name, each with its flow or None. Figures come in
            this order.
        references: Photographs of the images, [1, 3, 4h, 4w], where they are the decoder's target.

    Returns:
        Component's name -> figures for the ledger; `polish` and `float_model` where there are such.
    """
    outputs = float_outputs(source, images, references)
    context = model.context()
    is_backward = options.order == "backward"
    fit = _fit_backward if is_backward else _fit_forward
    fitted: dict[str, Fitted] = {}
    for name in reversed(COMPONENTS) if is_backward else COMPONENTS:
        if name in flows:
            fitted[name] = fit(name, model, outputs, options, flows[name], context)
    polish_error = _polish(model, fitted, outputs, options, context) if options.polish else None
    figures = {name: fitted[name].freeze() for name in flows}
    if polish_error is not None:
        figures["polish"] = {"error": polish_error}
    if outputs.float_error is not None:
        figures["float_model"] = {"error_to_references": outputs.float_error}
    return figures


def _polish(
    model: SRModel,
    fitted: dict[str, Fitted],
    outputs: FloatOutputs,
    options: Options,
    context: torch.Tensor | None,
) -> tuple[float, float]:
    """Learn all boundaries together; returns the error of the image before and after."""
    parameters = []
    for part in fitted.values():
        set_mode(part.component, "quantise")
        parameters += part.boundaries()

    def network(x: torch.Tensor) -> torch.Tensor:
        return model.decoder(model.clean_latent(model.encoder(x), context))

    objective = Objective(network, outputs.images, outputs.restored)
    schedule = Schedule(options.polish, options.lr, options.seed)
    return learn("all: boundaries", parameters, objective, schedule)


def _fit_forward(
    name: str,
    model: SRModel,
    outputs: FloatOutputs,
    options: Options,
    flow: Flow | None,
    context: torch.Tensor | None,
) -> Fitted:
    """Fit a component against its own float output.

    Its inputs come from the components that are quantised by then, or from the float ones.
    """
    if name == "encoder":
        encoder = Objective(model.encoder, outputs.images, outputs.latents)
        return fit_component(name, model.encoder, encoder, options, flow)
    latents = outputs.latents
    if options.distributed:
        latents = _run_all(model.encoder, outputs.images)

    def clean_latent(z: torch.Tensor) -> torch.Tensor:
        return model.clean_latent(z, context)

    if name == "denoiser":
        denoiser = Objective(clean_latent, latents, outputs.clean)

        def predictions(z: torch.Tensor) -> torch.Tensor:
            return torch.cat(model.predictions(z, context))

        on_predictions = Objective(predictions, latents, outputs.predictions)
        return fit_component(name, model.denoiser, denoiser, options, flow, on_predictions)
    clean = outputs.clean
    if options.distributed:
        clean = _run_all(clean_latent, latents)
    decoder = Objective(model.decoder, clean, outputs.restored)
    return fit_component(name, model.decoder, decoder, options, flow)


@torch.no_grad()
def _run_all(
    run: Callable[[torch.Tensor], torch.Tensor], inputs: list[torch.Tensor]
) -> list[torch.Tensor]:
    return [run(x) for x in inputs]


def _fit_backward(
    name: str,
    model: SRModel,
    outputs: FloatOutputs,
    options: Options,
    flow: Flow | None,
    context: torch.Tensor | None,
) -> Fitted:
    """Fit a component against the restored image, through the quantised rest."""
    if name == "decoder":
        decoder = Objective(model.decoder, outputs.clean, outputs.restored)
        return fit_component(name, model.decoder, decoder, options, flow)

    def from_latent(z: torch.Tensor) -> torch.Tensor:
        return model.decoder(model.clean_latent(z, context))

    if name == "denoiser":
        denoiser = Objective(from_latent, outputs.latents, outputs.restored)
        return fit_component(name, model.denoiser, denoiser, options, flow)

    def from_image(x: torch.Tensor) -> torch.Tensor:
        return from_latent(model.encoder(x))

    encoder = Objective(from_image, outputs.images, outputs.restored)
    return fit_component(name, model.encoder, encoder, options, flow)
