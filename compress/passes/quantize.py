"""Post-training quantisation of encoder, denoiser and decoder: min-max, or PassionSR (arXiv 2411.17106).

Placement is PassionSR's: the inputs and weights of convolutions and linear layers. `outputs` adds what convolutions
put out, without which no CPU kernel computes them in integers. Norms, activations, residual sums and attention
products stay in floating point, so a figure from here is not one of a whole-graph W8A8.
"""

import fnmatch
from typing import Literal

from diffusers.models.unets.unet_2d_blocks import CrossAttnUpBlock2D, UpBlock2D
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import nn

from compress.data.calibration import calibration_hash, calibration_images
from compress.errors import UserError, nearest
from compress.model import SRModel
from compress.passes.base import FitContext, Pass
from compress.quant.affine import BITS
from compress.quant.distributed import fit_model
from compress.quant.fit import begin
from compress.quant.layers import QuantConv2d, QuantLinear, SplitConv2d
from compress.quant.sites import Site, find_sites

# What PassionSR keeps at 8 bits by name: the doors between pixels, latents and features.
PINS_8_BIT = ("denoiser.unet.time_embedding.linear_1", "denoiser.unet.conv_out", "encoder.quant_conv",
              "encoder.encoder.conv_out", "decoder.post_quant_conv", "decoder.decoder.conv_out")
EDGES = (*PINS_8_BIT, "denoiser.unet.conv_in", "encoder.encoder.conv_in", "decoder.decoder.conv_in")
Component = Literal["encoder", "denoiser", "decoder"]


class Calibration(BaseModel):
    """`data` is `embedded` or a folder of low-resolution photographs; `size` is the side of the crops in pixels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = "embedded"
    images: int = Field(16, ge=0)
    size: int = Field(64, gt=0)


class Quantize(Pass):
    """`weights` and `activations` in bits; `pins` maps layer patterns to bits, `skip` leaves layers in float, `outputs`
    names convolutions whose output is quantised too (those at the edges of a component never are).

    `minmax` takes ranges as observed. `passionsr` searches them for the least square error, adds equivalent
    transforms where they fold away (`transforms`) and learns both, component after component.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["quantize"] = Field(default="quantize", alias="pass")
    method: Literal["minmax", "passionsr"] = "passionsr"
    weights: int = 8
    activations: int = 8
    components: tuple[Component, ...] = ("encoder", "denoiser", "decoder")
    # Integer kernels want weight zero points of 0; PassionSR's asymmetric weights are one word away.
    weight_scheme: Literal["symmetric", "asymmetric"] = "symmetric"
    pins: dict[str, int] = Field(default_factory=dict)
    skip: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    split_skips: bool = True
    transforms: bool = True
    alpha: float = Field(0.3, ge=0, le=1)
    epochs: int = Field(2, ge=0)
    lr: float = Field(1e-3, gt=0)
    calibration: Calibration = Calibration()

    @field_validator("weights", "activations")
    @classmethod
    def _known_bits(cls, bits: int) -> int:
        if bits not in BITS:
            raise ValueError(f"{bits} bits are not supported; choose one of {', '.join(map(str, BITS))}")
        return bits

    @field_validator("pins")
    @classmethod
    def _known_pins(cls, pins: dict[str, int]) -> dict[str, int]:
        for pattern, bits in pins.items():
            if bits not in BITS:
                raise ValueError(f"pin '{pattern}' has {bits} bits; choose one of {', '.join(map(str, BITS))}")
        return pins

    def convert(self, model: SRModel) -> None:
        layers = {f"{part}.{name}": (module, name) for part in self.components
                  for module in [getattr(model, part)] for name, layer in module.named_modules()
                  if isinstance(layer, (nn.Conv2d, nn.Linear))}
        if not layers:
            raise UserError(f"pass 'quantize': no convolution or linear layer is left to quantise in "
                            f"{', '.join(self.components)}; list the pass once per component")
        skipped = {name for pattern in self.skip for name in self._match(pattern, layers, "skip")}
        put_out = {name for pattern in self.outputs for name in self._match(pattern, layers, "outputs")}
        pinned = {name: 8 for name in PINS_8_BIT if name in layers and min(self.weights, self.activations) < 8}
        for pattern, width in self.pins.items():
            pinned |= dict.fromkeys(self._match(pattern, layers, "pins"), width)
        hidden = skip_concatenations(model) if self.split_skips else {}
        for name, (component, path) in layers.items():
            if name in skipped:
                continue
            width = pinned.get(name)
            parent, _, attribute = path.rpartition(".")
            owner = component.get_submodule(parent)
            layer = component.get_submodule(path)
            replacement = self._replace(layer, hidden.get(name), dict(
                weight_bits=width or self.weights, act_bits=width or self.activations,
                symmetric=self.weight_scheme == "symmetric",
                # Latents, predictions and pixels keep their precision.
                quantise_output=name in put_out and isinstance(layer, nn.Conv2d) and name not in EDGES))
            owner.register_module(attribute, replacement)
        if self.method == "passionsr" and self.transforms:
            for part in self.components:
                for site in find_sites(getattr(model, part)):
                    self._give_bias(site)

    def _match(self, pattern: str, layers: dict, key: str) -> list[str]:
        found = fnmatch.filter(layers, pattern)
        if not found:
            raise UserError(f"pass 'quantize': {key} pattern '{pattern}' matches no layer{nearest(pattern, layers)}; "
                            f"layers are named like '{next(iter(layers))}', * stands for any part")
        return found

    @staticmethod
    def _replace(layer: nn.Module, hidden: int | None, options: dict) -> nn.Module:
        if hidden is not None:
            new = SplitConv2d(layer, hidden, **options)
            parts = list(zip(new.parts, (layer.weight[:, :hidden], layer.weight[:, hidden:]), strict=True))
        else:
            new = (QuantLinear if isinstance(layer, nn.Linear) else QuantConv2d)(layer, **options)
            parts = [(new, layer.weight)]
        if not layer.weight.is_meta:
            for part, weight in parts:
                begin(part, weight)
        return new

    @staticmethod
    def _give_bias(site: Site) -> None:
        """A transform's offset needs a bias to go to, whether or not the layer had one."""
        for layer in site.consumers if site.has_offset else ():
            if layer.bias is None:
                layer.bias = nn.Parameter(layer.weight_scale.new_zeros(layer.weight_scale.shape), requires_grad=False)

    def fit(self, model: SRModel, context: FitContext) -> dict:
        images = calibration_images(self.calibration.data, self.calibration.images, self.calibration.size, context.seed)
        images = [x.to(context.device) for x in images]
        if self.calibration.size % model.multiple:
            raise UserError(f"calibration.size {self.calibration.size} is not a multiple of {model.multiple}, which "
                            "this model needs; round it")
        learned = self.method == "passionsr"
        return fit_model(model, context.before(self.pass_), images, self.components, search=learned,
                         transforms=learned and self.transforms, alpha=self.alpha, epochs=self.epochs, lr=self.lr,
                         seed=context.seed)

    def as_published(self) -> "Quantize":
        return self.model_copy(update={"skip": (), "outputs": ()})

    def data_key(self) -> str:
        return calibration_hash(self.calibration.data)


def skip_concatenations(model: SRModel) -> dict[str, int]:
    """Convolutions of a UNet that read a skip-concatenation, with the number of channels before the seam."""
    unet = getattr(model.denoiser, "unet", None)
    if not hasattr(unet, "mid_block"):  # none, or not one of diffusers'
        return {}
    found = {}
    previous = unet.mid_block.resnets[-1].out_channels
    for b, block in enumerate(unet.up_blocks):
        if not isinstance(block, (UpBlock2D, CrossAttnUpBlock2D)):
            continue
        for r, resnet in enumerate(block.resnets):
            name = f"denoiser.unet.up_blocks.{b}.resnets.{r}"
            found |= {f"{name}.{layer}": previous for layer in ("conv1", "conv_shortcut")}
            previous = resnet.out_channels
    return found
