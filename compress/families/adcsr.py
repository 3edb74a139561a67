"""AdcSR (arXiv 2411.13383): OSEDiff pruned and distilled; and our nano model of the same shape.

AdcSR takes text, timestep, encoder and latent away from OSEDiff.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from compress.core.errors import UserError
from compress.core.identity import files_key
from compress.core.tensors import read_tensors
from compress.families.osediff import OSEDiffSource
from compress.model.source import Source
from compress.model.sr_model import SRModel
from compress.networks.adcsr_checkpoint import load_adcsr
from compress.passes.decoder import DecoderHalve, DecoderJoin
from compress.passes.encoder_swap import EncoderSwap
from compress.passes.prune import Prune
from compress.passes.strip import Strip
from compress.process.colour import ColourFix

ASSET = Path(__file__).parent.parent / "assets" / "adcsr_nano.safetensors"
RATIO = 0.75  # of the channels that AdcSR keeps


class AdcSRSource(Source):
    """AdcSR, which OSEDiff becomes by AdcSR's passes."""

    family: Literal["adcsr"] = Field("adcsr", description="The name of this family.")
    size: Literal["nano", "sd21"] = Field(
        "nano",
        description="`nano` comes with the package; `sd21` reads the two published files.",
    )
    weights: str | None = Field(
        None, description="For `nano`, another weight file than the embedded one."
    )
    net: str | None = Field(None, description="For `sd21`, the file net_params_200.pkl.")
    decoder: str | None = Field(None, description="For `sd21`, the file halfDecoder.ckpt.")
    colour_fix: ColourFix = Field(
        "mean_std", description="How the image is corrected by the input."
    )

    def build(self) -> SRModel:
        """The structure, on the meta device: OSEDiff's, converted by AdcSR's passes."""
        # The published weights need the published numbers of groups; ours come from `prune` with
        # aligned channels.
        channels: Literal["first", "dependency"]
        channels = "first" if self.size == "sd21" else "dependency"
        model = OSEDiffSource(size=self.size, colour_fix=self.colour_fix).build()
        for step in (
            Strip(text="remove", timestep="remove"),
            EncoderSwap(),
            DecoderHalve(channels=channels),
            Prune(ratio=RATIO, channels=channels),
            DecoderJoin(),
        ):
            step.convert(model)
        return model.eval()

    def load(self, model: SRModel) -> None:
        """Read the values into what `build` returned.

        Raises:
            UserError: A file is not named, is missing, or holds other tensors than the model.
        """
        if self.size == "sd21":
            net = _named("net", self.net, "net_params_200.pkl")
            decoder = _named("decoder", self.decoder, "halfDecoder.ckpt")
            load_adcsr(model, net, decoder)
        else:
            file = Path(self.weights) if self.weights else ASSET
            if not file.is_file():
                raise UserError(
                    f"source.weights: {file} does not exist; give the model.safetensors of a run "
                    "of recipes/adcsr.yaml, or leave it out for the embedded weights"
                )
            read_tensors(model, file)
        model.eval().requires_grad_(False)

    def data_key(self) -> str:
        """Identity of the weight files, part of cache keys."""
        named = [file for file in (self.weights, self.net, self.decoder) if file]
        return files_key(named or [ASSET])


def _named(key: str, path: str | None, file: str) -> str:
    """The path of a published file. Raises UserError where the recipe does not name it."""
    if path is None:
        raise UserError(
            f"source.{key}: size 'sd21' needs AdcSR's {file}; set source.{key} to its path "
            "(--plan needs none)"
        )
    return path
