"""In which order the components of a model are fitted, and against what.

`forward` is PassionSR's: encoder, denoiser, decoder, each against its own float output. `backward` is QArtSR's
(arXiv 2503.05584, section 3.3): from the decoder to the encoder, each against the restored image through the quantised
rest, so that errors count by what they do to pixels. `polish` then learns all boundaries together against the image.
"""

import torch

from compress.model.sr_model import SRModel
from compress.quant.distributed import Fitted, Options, fit_component, learn, set_mode
from compress.quant.flow import Flow


class Targets:
    """What the float model makes of the calibration images: latents, predictions, clean latents, restored images."""

    @torch.no_grad()
    def __init__(
        self, source: SRModel, images: list[torch.Tensor], references: list[torch.Tensor] | None
    ):
        context = source.context()
        self.latents = [source.encoder(x) for x in images]
        self.predictions = [torch.cat(source.predictions(z, context)) for z in self.latents]
        self.clean = [source.clean_latent(z, context) for z in self.latents]
        restored = [source.decoder(z) for z in self.clean]
        self.restored = restored if references is None else references
        # What part of the error against photographs is the float model's own, for the ledger.
        self.float_error = (
            None
            if references is None
            else sum(
                ((a - b).square().mean() / b.square().mean()).item()
                for a, b in zip(restored, references)
            )
            / len(images)
        )


def fit_model(
    model: SRModel,
    source: SRModel,
    images: list[torch.Tensor],
    components: tuple[str, ...],
    options: Options,
    flows: dict[str, Flow],
    *,
    order: str = "forward",
    polish: int = 0,
    references: list[torch.Tensor] | None = None,
) -> dict[str, dict]:
    """Fit the quantised components of `model` against `source`, the same model before its quantisation.

    `images` are low-resolution calibration images [1, 3, h, w] in [0, 1], of legal sizes; `references`, where the
    decoder's target is the photograph, theirs [1, 3, 4h, 4w]. `polish` counts epochs.
    """
    targets = Targets(source, images, references)
    context = model.context()
    fitted: dict[str, Fitted] = {}
    steps = (_backward if order == "backward" else _forward)(
        model, images, targets, options, context
    )
    for name, fit in steps:
        if name in components:
            fitted[name] = fit(flows.get(name))
    if polish:
        for part in fitted.values():
            set_mode(part.component, "quantise")
        parameters = [p for part in fitted.values() for p in part.boundaries()]

        def network(x: torch.Tensor) -> torch.Tensor:
            return model.decoder(model.clean_latent(model.encoder(x), context))

        error = learn(
            "all: boundaries",
            parameters,
            network,
            images,
            targets.restored,
            polish,
            options.lr,
            options.seed,
        )
    figures = {name: fitted[name].freeze() for name in components if name in fitted}
    if polish:
        figures["polish"] = {"error": error}
    if targets.float_error is not None:
        figures["float_model"] = {"error_to_references": targets.float_error}
    return figures


def _forward(
    model: SRModel,
    images: list[torch.Tensor],
    targets: Targets,
    options: Options,
    context: torch.Tensor | None,
):
    """Steps (component, fit); a step's inputs come, when it runs, from the components that are quantised by then."""

    def encoder(flow: Flow | None) -> Fitted:
        return fit_component(
            "encoder", model.encoder, model.encoder, images, targets.latents, options, flow
        )

    @torch.no_grad()
    def latents() -> list[torch.Tensor]:
        return [model.encoder(x) for x in images] if options.distributed else targets.latents

    def denoiser(flow: Flow | None) -> Fitted:
        return fit_component(
            "denoiser",
            model.denoiser,
            lambda z: model.clean_latent(z, context),
            latents(),
            targets.clean,
            options,
            flow,
            transform_run=lambda z: torch.cat(model.predictions(z, context)),
            transform_targets=targets.predictions,
        )

    @torch.no_grad()
    def clean() -> list[torch.Tensor]:
        return (
            [model.clean_latent(z, context) for z in latents()]
            if options.distributed
            else targets.clean
        )

    def decoder(flow: Flow | None) -> Fitted:
        return fit_component(
            "decoder", model.decoder, model.decoder, clean(), targets.restored, options, flow
        )

    return [("encoder", encoder), ("denoiser", denoiser), ("decoder", decoder)]


def _backward(
    model: SRModel,
    images: list[torch.Tensor],
    targets: Targets,
    options: Options,
    context: torch.Tensor | None,
):
    def decoder(flow: Flow | None) -> Fitted:
        return fit_component(
            "decoder", model.decoder, model.decoder, targets.clean, targets.restored, options, flow
        )

    def denoiser(flow: Flow | None) -> Fitted:
        return fit_component(
            "denoiser",
            model.denoiser,
            lambda z: model.decoder(model.clean_latent(z, context)),
            targets.latents,
            targets.restored,
            options,
            flow,
        )

    def encoder(flow: Flow | None) -> Fitted:
        return fit_component(
            "encoder",
            model.encoder,
            lambda x: model.decoder(model.clean_latent(model.encoder(x), context)),
            images,
            targets.restored,
            options,
            flow,
        )

    return [("decoder", decoder), ("denoiser", denoiser), ("encoder", encoder)]
