"""Other people's pipelines of diffusers: UNet, autoencoder and one prompt, run in one step.

The pipeline's networks are those of Stable Diffusion, such as OSEDiff's with their LoRA merged.
"""

from functools import lru_cache
from typing import Any, Literal

import torch
from pydantic import Field, PrivateAttr
from torch import nn

from compress.core.errors import UserError
from compress.core.identity import files_key
from compress.core.weight_file import state_digest
from compress.model.source import Source
from compress.model.sr_model import MARGIN, SRModel, Tiling
from compress.networks.diffusers_layout import (
    KINDS,
    Layout,
    layout_in,
    layout_of,
    networks_in,
    networks_of,
)
from compress.networks.latent_diffusion import UNetDenoiser, VAEDecoder, VAEEncoder
from compress.process.colour import ColourFix
from compress.process.predicted_step import PredictedStep, Prediction
from compress.process.resample import SCALE

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


class DiffusersSource(Source):
    """A pipeline of diffusers: its folder, a name of the hub, or by `of` the object itself.

    The low-resolution image is enlarged and encoded, the UNet sees it once at `timestep`, and the
    result is decoded. The keys from `unet` on describe a pipeline without its folder: a saved
    model's header has them in its place.
    """

    family: Literal["diffusers_pipeline"] = Field(
        "diffusers_pipeline", description="The name of this family."
    )
    pipeline: str | None = Field(
        None, description="A pipeline's folder in diffusers' layout, or a name of the hub."
    )
    prompt: str = Field("", description="The one prompt, whose embedding becomes a constant.")
    timestep: int = Field(999, ge=0, le=999, description="At which the UNet is run.")
    colour_fix: ColourFix = Field("adain", description="How the image is corrected by the input.")
    unet: dict[str, Any] = Field(
        default_factory=dict, description="Without `pipeline`: the config of the UNet."
    )
    vae: dict[str, Any] = Field(
        default_factory=dict, description="Without `pipeline`: the config of the autoencoder."
    )
    tokens: int = Field(77, ge=1, le=4096, description="Without `pipeline`: tokens of its text.")
    prediction: Prediction | None = Field(
        None,
        description="What the UNet predicts; null: what the pipeline's scheduler says, and without "
        "`pipeline` epsilon. `residual`, which no scheduler says, is what the latent has more than "
        "the clean one.",
    )
    alpha_bar: float = Field(
        0.5, gt=0, lt=1, description="Without `pipeline`: of its schedule at the timestep."
    )
    _pipe: Any = PrivateAttr(default=None)

    @classmethod
    def of(cls, pipe: Any, **keys: Any) -> "DiffusersSource":
        """The source of a pipeline object, such as what `DiffusionPipeline.from_pretrained` gives.

        Args:
            pipe: Has `unet`, `vae`, `text_encoder`, `tokenizer` and `scheduler`. It is kept.
            **keys: `prompt`, `timestep`, `prediction` and `colour_fix`.

        Raises:
            UserError: Its networks are of another kind.
        """
        source = cls(**keys)
        layout = source._predicting(layout_of(pipe, source.timestep))
        found = source.model_copy(update=layout._asdict())
        found._pipe = pipe
        return found

    @property
    def needs_file(self) -> bool:
        """See `Source`."""
        return self.pipeline is not None

    def layout(self) -> Layout:
        """What the networks are built from.

        Raises:
            UserError: There is no pipeline and no config of one, or the folder cannot be read.
        """
        if self.pipeline is not None:
            return self._predicting(_layout_in(self.pipeline, self.timestep))
        if not self.unet or not self.vae:
            raise UserError(
                "source.pipeline: names no pipeline; set it to a folder in diffusers' layout or a "
                "name of the hub"
            )
        return Layout(
            self.unet, self.vae, self.tokens, self.prediction or "epsilon", self.alpha_bar
        )

    def _predicting(self, layout: Layout) -> Layout:
        """The structure with what this source says of the prediction."""
        return layout if self.prediction is None else layout._replace(prediction=self.prediction)

    def saved(self) -> "DiffusersSource":
        """See `Source`: the structure in the place of the folder."""
        return self.model_copy(update={"pipeline": None, **self.layout()._asdict()})

    def build(self) -> SRModel:
        """See `Source`. Of a folder, its configs are read."""
        layout = self.layout()
        with torch.device("meta"):
            unet, vae = (kind.from_config(getattr(layout, part)) for part, kind in KINDS.items())
            width = unet.config["cross_attention_dim"]
            context = torch.empty(1, layout.tokens, width)
        return self._model(unet, vae, context, layout)

    def load(self, model: SRModel) -> None:
        """See `Source`."""
        if self._pipe is not None:
            found = networks_of(self._pipe, self.prompt)
        elif self.pipeline is not None:
            found = networks_in(self.pipeline, self.prompt)
        else:
            raise UserError("source.pipeline: names no pipeline, and its weights are needed")
        other = self._model(*found, self.layout())
        values = {
            name: value.detach().to("cpu", torch.float32, copy=True)
            for name, value in other.state_dict().items()
        }
        model.load_state_dict(values, assign=True)
        model.eval().requires_grad_(False)

    def data_key(self) -> str:
        """See `Source`."""
        if self._pipe is not None:
            parts = (self._pipe.unet, self._pipe.vae, self._pipe.text_encoder)
            return "".join(state_digest(part.state_dict()) for part in parts)
        return files_key([f"{self.pipeline}/{part}" for part in PARTS] if self.pipeline else [])

    def _model(self, unet: Any, vae: Any, context: torch.Tensor, layout: Layout) -> SRModel:
        factor = 2 ** (len(vae.config["block_out_channels"]) - 1)  # pixels to one of the latent
        halvings = len(unet.config["block_out_channels"]) - 1
        process = PredictedStep(
            timestep=self.timestep, alpha_bar=layout.alpha_bar, prediction=layout.prediction
        )
        text = nn.Parameter(context, requires_grad=False)
        return SRModel(
            {
                "encoder": VAEEncoder(vae),
                "denoiser": UNetDenoiser(unet, self.timestep, text),
                "decoder": VAEDecoder(vae),
            },
            process,
            colour_fix=self.colour_fix,
            multiple=max(1, factor * 2**halvings // SCALE),
            latent_ratio=SCALE / factor,
            tiling=Tiling(colour_fix="wavelet", margin=MARGIN),
        ).eval()


@lru_cache(maxsize=8)
def _layout_in(place: str, timestep: int) -> Layout:
    """The structure of a folder's pipeline, which a recipe asks for several times."""
    return layout_in(place, timestep)
