"""The cost of a model as a sum over its layers. compress/cost/count.py says what is counted."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import Any, NamedTuple

FLOAT_BITS = 32
# Products of one bit that count as one operation: a word's worth of xnor and popcount.
BINARY_PRODUCTS = 64
# What follows a decoder's middle block.
TAIL = {"up_blocks", "up", "conv_norm_out", "norm_out", "conv_out"}
TOTALS = (
    "params",
    "param_equivalents",
    "bytes",
    "container_bytes",
    "macs_paper",
    "macs_full",
    "macs_equivalent",
    "paper_params",
    "paper_ops",
    "all_in_ops",
    "peak_activation_bytes",
)


class Arithmetic(NamedTuple):
    """In what a layer multiplies.

    Attributes:
        weight_bits: Bits of one weight.
        act_bits: Bits of one activation.
        floating: Whether the products are of floating-point numbers.
    """

    weight_bits: int
    act_bits: int
    floating: bool

    @property
    def bits(self) -> int:
        """Bits of the wider factor."""
        return max(self.weight_bits, self.act_bits)


FLOAT32 = Arithmetic(FLOAT_BITS, FLOAT_BITS, floating=True)


@dataclass
class Layer:
    """One module's own share, its children excluded. Bits are those of storage.

    Attributes:
        name: The module's name in the model.
        type: Its class.
        params: Parameters, and the integer weights that stand for one.
        param_bits: Bits of those.
        stored_bits: Parameters and persistent buffers, weights packed at their bit width.
        container_bytes: The same as they lie in memory.
        macs_conv: MACs of convolutions.
        macs_linear: MACs of linear layers.
        macs_attention: MACs of attention's two products.
        arithmetic: In what it multiplies.
        published_bits: Bits of the parameters that thop counts; a float has 32 in any storage.
        thop_elementwise: What thop counts for PReLU and softmax.
        density: Share of the MACs that a sparse kernel would do; below 1 for a sparse branch.
        activation_bytes: Inputs and outputs at float32, of a layer without layers inside.
    """

    name: str
    type: str
    params: int = 0
    param_bits: int = 0
    stored_bits: int = 0
    container_bytes: int = 0
    macs_conv: int = 0
    macs_linear: int = 0
    macs_attention: int = 0
    arithmetic: Arithmetic = FLOAT32
    published_bits: int = 0
    thop_elementwise: int = 0
    density: float = 1.0
    activation_bytes: int = 0

    @property
    def component(self) -> str:
        """The component of the model in which it is."""
        return self.name.partition(".")[0]

    @property
    def macs(self) -> int:
        """MACs of every kind."""
        return self.macs_conv + self.macs_linear + self.macs_attention

    @property
    def is_used(self) -> bool:
        """Whether it holds or does something."""
        has_work = bool(self.macs or self.thop_elementwise)
        return has_work or bool(self.stored_bits or self.activation_bytes)

    @property
    def in_papers(self) -> bool:
        """Whether the papers' account has it.

        It has no sparse branch, and no layer that holds weights but never runs.
        """
        if self.density != 1:
            return False
        return bool(self.macs_conv or self.macs_linear or self.thop_elementwise)

    @property
    def ops(self) -> float:
        """MACs of convolutions and linear layers, scaled by their bits."""
        bits = self.arithmetic.bits
        share = 1 / BINARY_PRODUCTS if bits == 1 else bits / FLOAT_BITS
        return (self.macs_conv + self.macs_linear) * self.density * share


@dataclass(frozen=True)
class Cost:
    """The cost of a model, or of one component of it, at one input size. Sums are over `layers`.

    Attributes:
        lr_size: (height, width) of the input in pixels.
        layers: The layers that hold or do something, in the order in which components run.
        calls: How often each component runs, of a model's.
    """

    lr_size: tuple[int, int]
    layers: tuple[Layer, ...] = field(repr=False)
    calls: Mapping[str, int] = field(default_factory=dict)

    def _sum(self, name: str) -> int:
        return sum(getattr(layer, name) for layer in self.layers)

    @property
    def params(self) -> int:
        """Parameters, and the integer weights that stand for one."""
        return self._sum("params")

    @property
    def param_equivalents(self) -> float:
        """Parameters x stored bits / 32: the papers' "parameters" of a quantised model."""
        return self._sum("param_bits") / FLOAT_BITS

    @property
    def bytes(self) -> int:
        """Parameters and persistent buffers, weights packed, each layer to whole bytes."""
        return sum(ceil(layer.stored_bits / 8) for layer in self.layers)

    @property
    def container_bytes(self) -> int:
        """The same tensors in the types that hold them now (a 4-bit weight in an int8)."""
        return self._sum("container_bytes")

    @property
    def macs_paper(self) -> int:
        """MACs of convolutions and linear layers."""
        return self._sum("macs_conv") + self._sum("macs_linear")

    @property
    def macs_full(self) -> int:
        """The same and the two products of attention."""
        return self.macs_paper + self._sum("macs_attention")

    @property
    def macs_equivalent(self) -> float:
        """macs_paper x max(weight bits, activation bits) / 32; sparse layers by their entries.

        Where both are 1 the factor is 1 / 64.
        """
        return sum(layer.ops for layer in self.layers)

    @property
    def all_in_ops(self) -> float:
        """macs_equivalent and the products of attention."""
        return self.macs_equivalent + self._sum("macs_attention")

    @property
    def paper_params(self) -> float:
        """What thop counts, a low-bit weight by its bits / 32."""
        bits = sum(layer.published_bits for layer in self.layers if layer.in_papers)
        return bits / FLOAT_BITS

    @property
    def paper_ops(self) -> float:
        """What thop counts, low-bit products scaled as in macs_equivalent."""
        return sum(layer.ops + layer.thop_elementwise for layer in self.layers if layer.in_papers)

    @property
    def peak_activation_bytes(self) -> int:
        """The largest input + output of one leaf layer at float32.

        It is a lower bound of a runtime's peak. Tensors kept for skip connections are not in it,
        and neither is an attention score matrix, which fused kernels avoid.
        """
        return max((layer.activation_bytes for layer in self.layers), default=0)

    def component(self, name: str) -> "Cost":
        """The part of one component."""
        return Cost(self.lr_size, tuple(layer for layer in self.layers if layer.component == name))

    def halves(self, name: str) -> dict[str, "Cost"]:
        """A decoder's cost up to its middle block, and from there.

        AdcSR joins UNet and decoder at that place.
        """
        parts: dict[str, list[Layer]] = {"to the middle block": [], "after it": []}
        for layer in self.component(name).layers:
            in_tail = not TAIL.isdisjoint(layer.name.split("."))
            parts["after it" if in_tail else "to the middle block"].append(layer)
        return {part: Cost(self.lr_size, tuple(layers)) for part, layers in parts.items()}

    def components(self) -> dict[str, "Cost"]:
        """Name -> cost, in the order in which they run.

        "process" holds what ran outside every component.
        """
        names = dict.fromkeys(layer.component for layer in self.layers)
        return {name: self.component(name) for name in names}

    def totals(self) -> dict[str, float]:
        """Every sum by its name."""
        sums: dict[str, float] = {name: getattr(self, name) for name in TOTALS}
        for name in ("macs_conv", "macs_linear", "macs_attention"):
            sums[name] = self._sum(name)
        return sums

    def as_dict(self, layers: bool = False) -> dict[str, Any]:
        """The totals and the same for each component, JSON-ready; with `layers` every layer too."""
        result: dict[str, Any] = {"lr_size": list(self.lr_size)}
        result |= self.totals()
        result["components"] = [
            {"name": name, "calls": self.calls.get(name, 1)} | cost.totals()
            for name, cost in self.components().items()
        ]
        if layers:
            result["layers"] = [asdict(layer) for layer in self.layers]
        return result


class Replaced(NamedTuple):
    """A part of a published system that a source runs without, and what it would cost.

    Attributes:
        name: One word, the key in JSON.
        title: Its own name.
        by: What stands in for it.
        system: The published system.
        cost: At the part's own input size.
    """

    name: str
    title: str
    by: str
    system: str
    cost: Cost
