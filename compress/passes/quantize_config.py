"""The keys of the pass `quantize`, which quantize.py carries out.

The keys are flat, although many belong to one method: a saved model's header and a cache's key are
made of them, and both have to stay what they were.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from compress.core.config import Strict
from compress.data.config import Calibration
from compress.model.passes import ComponentName, Pass
from compress.quant.affine import BITS

COMPONENTS = ("encoder", "denoiser", "decoder")  # what is quantised unless a recipe says so
# Keys that only `method: passionsr` has.
LEARNED = ("explicit", "low_rank", "equalise", "polish", "ablate")


def _checked(bits: int, where: str = "") -> int:
    if bits not in BITS:
        raise ValueError(
            f"{where}{bits} bits are not supported; choose one of {', '.join(map(str, BITS))}"
        )
    return bits


class Width(Strict):
    """Bits of one layer; what is left out is the pass's."""

    weights: int | None = Field(None, description="Bits of the layer's weights.")
    activations: int | None = Field(None, description="Bits of the layer's input and output.")

    @classmethod
    def of(cls, bits: "int | Width") -> "Width":
        """A pin's value: one number stands for both."""
        if isinstance(bits, Width):
            return bits
        return cls(weights=bits, activations=bits)


class QuantizeConfig(Pass):
    """What is quantised, how ranges are found, and on which images."""

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["quantize"] = Field(
        default="quantize", alias="pass", description="Names the pass."
    )
    method: Literal["minmax", "passionsr"] = Field(
        "passionsr",
        description=(
            "How ranges are found: `minmax` takes them as observed, `passionsr` searches them for "
            "the least square error and learns them, component after component."
        ),
    )

    # What is quantised, and to how many bits.
    weights: int = Field(8, description="Bits of weights: 4, 6, 8 or 16.")
    activations: int = Field(8, description="Bits of activations: 4, 6, 8 or 16.")
    placement: Literal["compat", "full", "cpu"] = Field(
        "compat",
        description=(
            "Which tensors are quantised: `compat` inputs and weights of layers, as PassionSR; "
            "`full` every tensor between operators; `cpu` what onnxruntime computes in integers on "
            "x86."
        ),
    )
    attention: bool = Field(
        False,
        description=(
            "In placement `compat`, also quantise the denoiser's Q, K, V and softmax, as the paper "
            "does."
        ),
    )
    norm_stride: int = Field(
        1,
        ge=1,
        le=4,
        description=(
            "Estimate a GroupNorm's moments from every n-th row and column (placement `full`, in "
            "encoder and decoder), or from every n-th row (placement `cpu`, in the decoder)."
        ),
    )
    components: tuple[ComponentName, ...] = Field(
        COMPONENTS, description="Components that are quantised."
    )
    weight_scheme: Literal["symmetric", "asymmetric"] = Field(
        "symmetric",
        description=(
            "Whether zero points of weights are 0, as integer kernels want them, or free, as "
            "PassionSR has them."
        ),
    )
    reduce_range: bool = Field(
        False,
        description=(
            "Quantise 8-bit weights to the codes from -64 to 64. Products of bytes with them "
            "cannot overflow in the 16 bits in which x86 without VNNI adds pairs, so that "
            "onnxruntime keeps its fast kernels there; it costs one bit of the weights' precision. "
            "Layers whose weights are narrower or wider than 8 bits stay as they are."
        ),
    )
    pins: dict[str, int | Width] = Field(
        default_factory=dict,
        description=(
            "Bits of single layers: a pattern of names, and one number or {weights, activations}. "
            "In placement `full` patterns also match the tensors between operators."
        ),
    )
    skip: tuple[str, ...] = Field(
        (),
        description=(
            "Patterns of layers that stay in float, and in placement `full` of tensors between "
            "operators."
        ),
    )
    outputs: tuple[str, ...] = Field(
        (),
        description=(
            "Patterns of convolutions whose output is quantised too, as CPU kernels need it; those "
            "at the ends of a component are left out, but in placement `cpu`."
        ),
    )
    split_skips: bool = Field(
        True,
        description=(
            "Compute convolutions on a skip-concatenation as two, each with a range of its own "
            "(Q-Diffusion)."
        ),
    )

    # What method `passionsr` learns, and how.
    transforms: bool = Field(
        True, description="Add equivalent transforms where they fold away (PassionSR's LET)."
    )
    explicit: bool = Field(
        False,
        description=(
            "Add transforms that nothing absorbs as well, as a product before the layer, where an "
            "estimate says that it pays."
        ),
    )
    equalise: bool = Field(
        False,
        description="Equalise the ranges of neighbouring convolutions before learning (DFQ).",
    )
    rounding: Literal["nearest", "feedback"] = Field(
        "nearest",
        description=(
            "Round weights to the nearest code, or with error feedback where a component's error "
            "falls (GPTQ)."
        ),
    )
    bias_correction: bool = Field(
        False, description="Correct biases where a component's error falls (DFQ)."
    )
    low_rank: int = Field(
        0, ge=0, description="Rank of a 16-bit branch beside every layer (SVDQuant); 0 for none."
    )
    ablate: tuple[Literal["lbq", "let", "dqc"], ...] = Field(
        (),
        description=(
            "Parts of PassionSR to leave out: `lbq` learned boundaries, `let` transforms, `dqc` "
            "calibration on the quantised components before."
        ),
    )
    order: Literal["forward", "backward"] = Field(
        "forward",
        description=(
            "Fit from the encoder on, each component against its own float output (PassionSR), or "
            "from the decoder back, against the restored image (QArtSR)."
        ),
    )
    polish: int = Field(
        0, ge=0, description="Epochs in which all boundaries are learned together at the end."
    )
    target: Literal["fp", "hr"] = Field(
        "fp",
        description="What the decoder is fitted against: the float model's image or the photo.",
    )
    alpha: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Share of the range that a transform first moves to weights.",
    )
    epochs: int = Field(2, ge=0, description="How often every image is seen; 0 learns nothing.")
    lr: float = Field(1e-2, gt=0, description="Learning rate of boundaries and transforms.")
    batch: int = Field(
        1,
        gt=0,
        le=4096,
        description="Images in a step of learning; several processes share them out.",
    )

    # On which images.
    calibration: Calibration = Field(
        Calibration(), description="The images on which ranges are observed and learned."
    )

    # Of a chain.
    ranges: Literal["shared", "by_step"] = Field(
        "shared",
        description=(
            "For a chain of several steps, whether a tensor has one range for all, or `by_step` "
            "one for each; those are exported as one graph of the whole chain."
        ),
    )

    @field_validator("weights", "activations")
    @classmethod
    def _known_bits(cls, bits: int) -> int:
        return _checked(bits)

    @field_validator("pins")
    @classmethod
    def _known_pins(cls, pins: dict[str, int | Width]) -> dict[str, int | Width]:
        for pattern, bits in pins.items():
            width = Width.of(bits)
            for value in (width.weights, width.activations):
                if value is not None:
                    _checked(value, f"pin '{pattern[:100]}': ")
        return pins

    @model_validator(mode="after")
    def _fits_together(self) -> "QuantizeConfig":
        problem = next(self._problems(), None)
        if problem is not None:
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        """What cannot be meant together, one sentence each."""
        yield from self._problems_of_placement()
        yield from self._problems_of_target()
        if self.ranges == "by_step" and self.method != "minmax":
            yield (
                f"ranges 'by_step' are as observed, and method '{self.method}' learns one for all "
                "steps; set method: minmax, or ranges: shared"
            )
        if self.method == "minmax":
            for key in LEARNED:
                if getattr(self, key):
                    yield (
                        f"method 'minmax' learns nothing and has no '{key}'; remove it, or choose "
                        "passionsr"
                    )

    def _problems_of_placement(self) -> Iterator[str]:
        if self.placement == "full" and (self.outputs or self.attention):
            yield (
                "placement 'full' quantises every output and attention already; remove 'outputs' "
                "and 'attention', or set placement: compat"
            )
        if self.placement == "cpu" and self.attention:
            yield (
                "placement 'cpu' quantises attention already; remove 'attention', or set "
                "placement: compat"
            )
        if self.norm_stride > 1 and self.placement == "compat":
            yield (
                "norm_stride belongs to placement 'full' or 'cpu'; set one of them, or remove "
                "norm_stride"
            )
        if self.reduce_range and self.weights == 16:
            yield (
                "reduce_range is for weights of 8 bits and weights is 16; set weights: 8, or "
                "remove reduce_range"
            )

    def _problems_of_target(self) -> Iterator[str]:
        photographs = self.calibration.hr
        if self.target == "hr" and photographs is None and self.calibration.data != "embedded":
            yield (
                "target 'hr' needs the photographs themselves; set calibration.hr to a folder that "
                "holds them four times as large, under the names of "
                f"{self.calibration.data}, or target: fp"
            )
        if self.target == "hr" and "decoder" not in self.components:
            yield (
                "target 'hr' is what the decoder is calibrated against, and components has no "
                "decoder"
            )
        if photographs is not None and self.target != "hr":
            yield "calibration.hr is read for target 'hr' only; set target: hr or remove it"

    @property
    def has_transforms(self) -> bool:
        """Whether layers may have equivalent transforms."""
        return self.method == "passionsr" and self.transforms and "let" not in self.ablate
