"""Post-training quantisation of encoder, denoiser and decoder: min-max, or PassionSR (arXiv 2411.17106).

Placement `compat` is PassionSR's: the inputs and weights of convolutions and linear layers; `attention` adds the
denoiser's Q, K, V and softmax, as in the paper, `outputs` what convolutions put out, without which no CPU kernel
computes them in integers. Norms, activations and residual sums stay in floating point, so a figure of it is not one of
a whole-graph W8A8. Placement `full` is: every tensor that one operator puts out and another reads is on a grid, a
softmax's on one of 16 bits. Placement `cpu` is for onnxruntime on x86: what convolutions put out, sums and enlarged
copies of that, and attention's operands; GroupNorm, SiLU and softmax are computed in floating point between them. What
goes in and out of a component (pixels, latents, predictions) keeps its precision in all three.
"""

import fnmatch
from typing import Literal

import torch
from diffusers.models.unets.unet_2d_blocks import CrossAttnUpBlock2D, UpBlock2D
from pydantic import ConfigDict, Field, field_validator, model_validator
from torch import nn

from compress.core.config import Strict
from compress.core.errors import UserError, nearest
from compress.data.calibration import calibration_hash, calibration_images, calibration_pairs
from compress.data.config import Calibration
from compress.model.passes import FitContext, Pass
from compress.model.sr_model import SRModel
from compress.quant.affine import BITS
from compress.quant.distributed import Options
from compress.quant.doors import doors
from compress.quant.explicit import give_room
from compress.quant.fit import begin, begin_ranges
from compress.quant.flow import Flow, record
from compress.quant.layers import QuantConv2d, QuantLayer, QuantLinear, SplitConv2d
from compress.quant.placement import Placement
from compress.quant.points import float_operators, place
from compress.quant.schedule import fit_model
from compress.quant.sites import Site, find_sites

Component = Literal["encoder", "denoiser", "decoder"]


def _checked(bits: int, where: str = "") -> int:
    if bits not in BITS:
        raise ValueError(
            f"{where}{bits} bits are not supported; choose one of {', '.join(map(str, BITS))}"
        )
    return bits


class Width(Strict):
    """Bits of one layer; what is left out is the pass's."""

    weights: int | None = None
    activations: int | None = None


class Quantize(Pass):
    """`weights` and `activations` in bits; `pins` maps layer patterns to bits (one number, or {weights, activations}),
    `skip` leaves layers in float, `outputs` names convolutions whose output is quantised too (those at the edges of a
    component never are). In placement `full`, `pins` and `skip` also match the tensors between operators.

    `minmax` takes ranges as observed. `passionsr` searches them for the least square error, adds equivalent
    transforms where they fold away (`transforms`), or with a product where that pays (`explicit`), and learns both,
    component after component. `ablate` takes parts of it away again: lbq (learned boundaries), let (transforms), dqc
    (calibration on the quantised predecessors). `order: backward` with `polish` epochs is QArtSR's schedule;
    `low_rank` adds SVDQuant's 16-bit branch of that rank; `rounding: feedback`, `bias_correction` and `equalise` are
    kept per component where they lower its error.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["quantize"] = Field(default="quantize", alias="pass")
    method: Literal["minmax", "passionsr"] = "passionsr"
    weights: int = 8
    activations: int = 8
    placement: Literal["compat", "full", "cpu"] = "compat"
    attention: bool = False
    # Of a GroupNorm's moments: placement full, encoder and decoder, every n-th row and column; placement cpu, decoder,
    # every n-th row (the encoder sees the image's own texture and keeps them all).
    norm_stride: int = Field(1, ge=1, le=4)
    components: tuple[Component, ...] = ("encoder", "denoiser", "decoder")
    # Integer kernels want weight zero points of 0; PassionSR's asymmetric weights are one word away.
    weight_scheme: Literal["symmetric", "asymmetric"] = "symmetric"
    reduce_range: bool = Field(
        False,
        description=(
            "Quantise 8-bit weights to the codes from -64 to 64. Products of bytes with them cannot overflow in the 16 bits "
            "in which x86 without VNNI adds pairs, so that onnxruntime keeps its fast kernels there; it costs one bit of "
            "the weights' precision. Layers whose weights are narrower or wider than 8 bits stay as they are."
        ),
    )
    pins: dict[str, int | Width] = Field(default_factory=dict)
    skip: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    split_skips: bool = True
    transforms: bool = True
    explicit: bool = False
    equalise: bool = False
    rounding: Literal["nearest", "feedback"] = "nearest"
    bias_correction: bool = False
    low_rank: int = Field(0, ge=0)
    ablate: tuple[Literal["lbq", "let", "dqc"], ...] = ()
    order: Literal["forward", "backward"] = "forward"
    polish: int = Field(0, ge=0)
    target: Literal["fp", "hr"] = "fp"
    alpha: float = Field(0.3, ge=0, le=1)
    epochs: int = Field(2, ge=0)
    lr: float = Field(1e-2, gt=0)
    calibration: Calibration = Calibration()

    @field_validator("weights", "activations")
    @classmethod
    def _known_bits(cls, bits: int) -> int:
        return _checked(bits)

    @field_validator("pins")
    @classmethod
    def _known_pins(cls, pins: dict[str, int | Width]) -> dict[str, int | Width]:
        for pattern, bits in pins.items():
            for value in (bits.weights, bits.activations) if isinstance(bits, Width) else (bits,):
                if value is not None:
                    _checked(value, f"pin '{pattern[:100]}': ")
        return pins

    @model_validator(mode="after")
    def _fits_together(self) -> "Quantize":
        if self.placement == "full" and (self.outputs or self.attention):
            raise ValueError(
                "placement 'full' quantises every output and attention already; remove 'outputs' and "
                "'attention', or set placement: compat"
            )
        if self.placement == "cpu" and self.attention:
            raise ValueError(
                "placement 'cpu' quantises attention already; remove 'attention', or set placement: "
                "compat"
            )
        if self.norm_stride > 1 and self.placement == "compat":
            raise ValueError(
                "norm_stride belongs to placement 'full' or 'cpu'; set one of them, or remove norm_stride"
            )
        if self.reduce_range and self.weights == 16:
            raise ValueError(
                "reduce_range is for weights of 8 bits and weights is 16; set weights: 8, or remove "
                "reduce_range"
            )
        if (
            self.target == "hr"
            and self.calibration.hr is None
            and self.calibration.data != "embedded"
        ):
            raise ValueError(
                "target 'hr' needs the photographs themselves; set calibration.hr to a folder that holds "
                f"them four times as large, under the names of {self.calibration.data}, or target: fp"
            )
        if self.target == "hr" and "decoder" not in self.components:
            raise ValueError(
                "target 'hr' is what the decoder is calibrated against, and components has no decoder"
            )
        if self.calibration.hr is not None and self.target != "hr":
            raise ValueError(
                "calibration.hr is read for target 'hr' only; set target: hr or remove it"
            )
        if self.method == "minmax":
            given = [
                key
                for key in ("explicit", "low_rank", "equalise", "polish", "ablate")
                if getattr(self, key)
            ]
            if given:
                raise ValueError(
                    f"method 'minmax' learns nothing and has no '{given[0]}'; remove it, or choose "
                    "passionsr"
                )
        return self

    @property
    def has_transforms(self) -> bool:
        return self.method == "passionsr" and self.transforms and "let" not in self.ablate

    def convert(self, model: SRModel) -> None:
        layers = {
            f"{part}.{name}": (module, name)
            for part in self.components
            for module in [getattr(model, part)]
            for name, layer in module.named_modules()
            if isinstance(layer, (nn.Conv2d, nn.Linear))
        }
        if not layers:
            raise UserError(
                f"pass 'quantize': no convolution or linear layer is left to quantise in "
                f"{', '.join(self.components)}; list the pass once per component"
            )
        if adapter := next((name for name in layers if ".lora_" in name), None):
            raise UserError(
                f"pass 'quantize': {adapter} is a LoRA adapter that is not merged; merge it into its layer "
                "before quantising, for a product of two quantised matrices is not the quantised product"
            )
        pins, edges = self._doors(model, layers)
        hidden = skip_concatenations(model) if self.split_skips else {}
        used: set[str] = set()
        skipped = {name for pattern in self.skip for name in self._matched(pattern, layers, used)}
        put_out = {
            name for pattern in self.outputs for name in self._match(pattern, layers, "outputs")
        }
        weights = []
        for name, (component, path) in layers.items():
            if name in skipped:
                continue
            parent, _, attribute = path.rpartition(".")
            layer = component.get_submodule(path)
            weight_bits, act_bits = self._width(name, pins, used)
            new, parts = self._replace(
                layer,
                hidden.get(name),
                dict(
                    weight_bits=weight_bits,
                    act_bits=act_bits,
                    symmetric=self.weight_scheme == "symmetric",
                    low_rank=self.low_rank,
                    reduce_range=self.reduce_range,
                    # Latents, predictions and pixels keep their precision, unless named one by one in placement cpu.
                    quantise_output=name in put_out
                    and isinstance(layer, nn.Conv2d)
                    and (name not in edges or self.placement == "cpu"),
                ),
            )
            component.get_submodule(parent).register_module(attribute, new)
            weights += parts
        # New layers are told from those of an earlier pass by their learning state; on meta both have none.
        mine = [layer for layer, _ in weights]
        points = self._place(model, used)
        self._check_patterns(layers, points, used)
        self._make_room(model, set(mine))
        for layer, weight in weights:
            if not weight.is_meta:
                begin(layer, weight)
        for part in self.components:
            if not any(weight.is_meta for _, weight in weights):
                begin_ranges(getattr(getattr(model, part), "points", nn.Module()))

    def _doors(self, model: SRModel, layers: dict) -> tuple[set[str], set[str]]:
        """Full names of the layers to pin and of those at the edges, if this config asks for either."""
        if min(self.weights, self.activations) >= 8 and not self.outputs:
            return set(), set()
        found: tuple[set[str], set[str]] = set(), set()
        for part, flow in record(model, self.components).items():
            for names, kept in zip(doors(flow), found, strict=True):
                kept |= {f"{part}.{name}" for name in names} & layers.keys()
        return found

    def _width(self, name: str, pins: set[str], used: set[str], least: int = 0) -> tuple[int, int]:
        """(weight bits, activation bits) of a layer or tensor; of the latter at least `least`, unless a pin says so."""
        weights, activations = self.weights, max(self.activations, least)
        if name in pins:
            weights, activations = max(8, weights), max(8, activations)
        for pattern, width in self.pins.items():
            if fnmatch.fnmatchcase(name, pattern):
                used.add(pattern)
                width = (
                    width if isinstance(width, Width) else Width(weights=width, activations=width)
                )
                weights, activations = width.weights or weights, width.activations or activations
        return weights, activations

    def _place(self, model: SRModel, used: set[str]) -> list[str]:
        """The quantisers between operators; returns the full names of all that could be had."""
        parts = (
            self.components
            if self.placement != "compat"
            else ("denoiser",)
            if self.attention
            else ()
        )
        parts = tuple(p for p in parts if p in self.components)
        if not parts and not self.equalise:
            return []
        names: list[str] = []
        for part, flow in record(model, parts or self.components).items():
            component = getattr(model, part)
            component.flow = flow
            if part not in parts:
                continue
            if hasattr(component, "points"):
                raise UserError(
                    f"pass 'quantize': the tensors between the operators of the {part} were quantised by "
                    "an earlier pass; list placement 'full' or attention once per component"
                )

            def bits(point: str, least: int, part: str = part) -> int | None:
                name = f"{part}.{point}"
                names.append(name)
                matching = [pattern for pattern in self.skip if fnmatch.fnmatchcase(name, pattern)]
                used.update(matching)
                return None if matching else self._width(name, set(), used, least)[1]

            sampled = ("decoder",) if self.placement == "cpu" else ("encoder", "decoder")
            place(component, flow, bits, self.placement, self.norm_stride if part in sampled else 1)
        return names

    def _make_room(self, model: SRModel, mine: set[QuantLayer]) -> None:
        """Biases and factors that transforms and corrections will need, whatever the data say."""
        taken: set[nn.Module] = set()
        for part in self.components:
            for site in find_sites(getattr(model, part)) if self.has_transforms else ():
                if mine.issuperset(site.consumers):
                    self._give_bias(site)
                    taken.update(site.consumers)
        if self.explicit and self.has_transforms:
            give_room([("", layer) for layer in mine], taken)

    def _matched(self, pattern: str, layers: dict, used: set[str]) -> list[str]:
        found = [name for name in layers if fnmatch.fnmatchcase(name, pattern)]
        used.update([pattern] * bool(found))
        return found

    def _match(self, pattern: str, layers: dict, key: str) -> list[str]:
        found = fnmatch.filter(layers, pattern)
        if not found:
            raise self._no_match(pattern, layers, key)
        return found

    @staticmethod
    def _no_match(pattern: str, names: dict | list, key: str) -> UserError:
        return UserError(
            f"pass 'quantize': {key} pattern '{pattern[:100]}' matches no layer{nearest(pattern, names)}; "
            f"layers are named like '{next(iter(names))}', * stands for any part"
        )

    def _check_patterns(self, layers: dict, points: list[str], used: set[str]) -> None:
        for key, patterns in (("skip", self.skip), ("pins", self.pins)):
            for pattern in patterns:
                # A pin of a layer that is skipped, or of one pinned twice, is no typing error.
                if pattern not in used and not fnmatch.filter(layers, pattern):
                    raise self._no_match(pattern, [*layers, *points], key)

    @staticmethod
    def _replace(
        layer: nn.Module, hidden: int | None, options: dict
    ) -> tuple[nn.Module, list[tuple[QuantLayer, torch.Tensor]]]:
        """The new module, and its quantised layers, each with the float weight that it stands for."""
        if hidden is not None:
            new = SplitConv2d(layer, hidden, **options)
            return new, list(
                zip(new.parts, (layer.weight[:, :hidden], layer.weight[:, hidden:]), strict=True)
            )
        new = (QuantLinear if isinstance(layer, nn.Linear) else QuantConv2d)(layer, **options)
        return new, [(new, layer.weight)]

    @staticmethod
    def _give_bias(site: Site) -> None:
        """A transform's offset needs a bias to go to, whether or not the layer had one."""
        for layer in site.consumers if site.has_offset else ():
            if layer.bias is None:
                layer.bias = nn.Parameter(
                    layer.weight_scale.new_zeros(layer.weight_scale.shape), requires_grad=False
                )

    def fit(self, model: SRModel, context: FitContext) -> dict:
        if self.calibration.size % model.multiple:
            raise UserError(
                f"calibration.size {self.calibration.size} is not a multiple of {model.multiple}, which "
                "this model needs; round it"
            )
        images, references = self._images(context)
        learned, flows = self.method == "passionsr", self._flows(model)
        options = Options(
            search=learned and "lbq" not in self.ablate,
            transforms=self.has_transforms,
            equalise=self.equalise,
            feedback=self.rounding == "feedback",
            bias=self.bias_correction,
            distributed="dqc" not in self.ablate,
            alpha=self.alpha,
            epochs=self.epochs,
            lr=self.lr,
            seed=context.seed,
        )
        figures: dict = {"placement": self.label(), "calibration_size": self.calibration.size}
        remaining = {
            part: float_operators(getattr(model, part), flow) for part, flow in flows.items()
        }
        figures |= {"float_operators": remaining} if self.placement != "compat" else {}
        before = context.before(self.pass_)
        return figures | fit_model(
            model,
            before,
            images,
            self.components,
            options,
            flows,
            order=self.order,
            polish=self.polish,
            references=references,
        )

    def _images(self, context: FitContext) -> tuple[list[torch.Tensor], list[torch.Tensor] | None]:
        c = self.calibration
        if self.target == "hr":
            pairs = calibration_pairs(c.data, c.hr, c.images, c.size, context.seed)
            images, references = (
                [x.to(context.device) for x in part] for part in zip(*pairs, strict=True)
            )
        else:
            images = [
                x.to(context.device)
                for x in calibration_images(c.data, c.images, c.size, context.seed)
            ]
            references = None
        return images, references

    def _flows(self, model: SRModel) -> dict[str, Flow]:
        """What `convert` recorded, taken off the model again."""
        parts = [part for part in self.components if hasattr(getattr(model, part), "flow")]
        flows = {part: getattr(model, part).flow for part in parts}
        for part in parts:
            del getattr(model, part).flow
        return flows

    @property
    def grids(self) -> Placement:
        """Where this pass puts grids."""
        return Placement.of(self.placement, self.attention)

    def label(self) -> str:
        """The placement that a figure of this pass belongs to."""
        return self.grids + " with outputs" * bool(self.outputs)

    def as_published(self) -> "Quantize":
        return self.model_copy(update={"skip": (), "outputs": (), "low_rank": 0})

    def data_key(self) -> str:
        own = calibration_hash(self.calibration.data)
        return (
            own if self.calibration.hr is None else f"{own}+{calibration_hash(self.calibration.hr)}"
        )


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
