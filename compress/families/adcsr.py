"""AdcSR (arXiv 2411.13383): OSEDiff without text, timestep, encoder and latent, pruned and distilled; and our nano."""

from pathlib import Path
from typing import Literal

from compress.core.errors import UserError
from compress.core.identity import files_key
from compress.core.tensors import read_tensors
from compress.families.osediff import OSEDiffSource
from compress.model.source import Source
from compress.model.sr_model import SRModel
from compress.networks.adcsr_checkpoint import load_adcsr
from compress.process.colour import ColourFix

ASSET = Path(__file__).parent.parent / "assets" / "adcsr_nano.safetensors"


class AdcSRSource(Source):
    """`size: nano` comes with the package; `size: sd21` reads the two published files."""

    family: Literal["adcsr"] = "adcsr"
    size: Literal["nano", "sd21"] = "nano"
    weights: str | None = None  # nano: another weight file than the embedded one
    net: str | None = None  # sd21: net_params_200.pkl
    decoder: str | None = None  # sd21: halfDecoder.ckpt
    colour_fix: ColourFix = "mean_std"

    def build(self) -> SRModel:
        """The structure, on the meta device: OSEDiff's, converted by AdcSR's passes. No weight is read."""
        # The passes import compress.families, and so this module.
        from compress.passes.decoder import DecoderHalve, DecoderJoin
        from compress.passes.encoder_swap import EncoderSwap
        from compress.passes.prune import Prune
        from compress.passes.strip import Strip

        # The published weights need the published numbers of groups; ours come from `prune` with aligned channels.
        channels = "first" if self.size == "sd21" else "dependency"
        model = OSEDiffSource(size=self.size, colour_fix=self.colour_fix).build()
        for step in (
            Strip(text="remove", timestep="remove"),
            EncoderSwap(),
            DecoderHalve(channels=channels),
            Prune(ratio=0.75, channels=channels),
            DecoderJoin(),
        ):
            step.convert(model)
        return model.eval()

    def load(self, model: SRModel) -> None:
        """Read the values into what `build` returned."""
        if self.size == "sd21":
            for key, file in (("net", "net_params_200.pkl"), ("decoder", "halfDecoder.ckpt")):
                if getattr(self, key) is None:
                    raise UserError(
                        f"source.{key}: size 'sd21' needs AdcSR's {file}; set source.{key} to its path "
                        "(--plan needs none)"
                    )
            load_adcsr(model, self.net, self.decoder)
        else:
            file = Path(self.weights) if self.weights else ASSET
            if not file.is_file():
                raise UserError(
                    f"source.weights: {file} does not exist; give the model.safetensors of a run of "
                    "recipes/adcsr.yaml, or leave it out for the embedded weights"
                )
            read_tensors(model, file)
        model.eval().requires_grad_(False)

    def data_key(self) -> str:
        """Identity of the weight files, part of cache keys."""
        return files_key([f for f in (self.weights, self.net, self.decoder) if f] or [ASSET])
