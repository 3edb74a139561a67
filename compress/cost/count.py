"""What a model costs, counted on the meta device: no weight is read, no tensor is allocated, the model is left alone.

Two conventions of multiply-accumulates (MACs), batch 1: `macs_paper` is convolutions and linear layers (output
elements x fan-in), the count of thop and of the papers; `macs_full` adds the two matrix products of attention. Bias,
normalisation, activation, softmax and resampling are never counted.

Two accounts of a compressed model. The *papers'*: `paper_params` and `paper_ops` are what thop sees, the parameters and
operations of convolutions, linear layers, PReLU and softmax, and low-bit weights and products scaled by bits / 32, those
of one bit by 1 / 64. They leave out norms, the biases of low-bit layers, the products of attention and sparse branches,
which `param_equivalents` and `all_in_ops` add, sparse ones by their entries. The *real* one: `bytes` as stored and
`macs_full`, because no CPU or phone runtime at hand is faster at one bit than at eight.

A layer says `weight_bits` and `act_bits` if they are not those of its weight's type, and `density`, the share of its
products that a sparse kernel would do. What a source replaces, such as the tagger of OSEDiff (DAPE), is no part of an
SRModel: `measure` leaves it out and `measure_module` counts it by itself.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from compress.core.errors import UserError
from compress.model.sr_model import SRModel

aten = torch.ops.aten
M = TypeVar("M", bound=nn.Module)
FLOAT = 32
TAIL = {
    "up_blocks",
    "up",
    "conv_norm_out",
    "norm_out",
    "conv_out",
}  # what follows a decoder's middle block
BINARY_OPS = (
    64  # products of one bit that count as one operation: a word's worth of xnor and popcount
)
THOP = (
    nn.Conv2d,
    nn.Linear,
    nn.PReLU,
    nn.Softmax,
)  # the types it knows, of those that models here are made of
_KIND = {
    aten.convolution: "conv",
    aten._convolution: "conv",
    aten.mm: "linear",
    aten.addmm: "linear",
    aten.bmm: "attention",
    aten.baddbmm: "attention",
}


@dataclass
class Layer:
    """One module's own share, its children excluded. Bits are those of storage."""

    name: str
    type: str
    params: int = 0  # parameters, and the integer weights that stand for one
    param_bits: int = 0
    stored_bits: int = 0  # parameters and persistent buffers, weights packed at their bit width
    container_bytes: int = 0  # the same as they lie in memory
    macs_conv: int = 0
    macs_linear: int = 0
    macs_attention: int = 0
    arithmetic_bits: int = FLOAT
    paper_bits: int = 0  # of param_bits, those that thop would count
    thop_elementwise: int = 0  # what it counts for PReLU and softmax
    density: float = (
        1.0  # share of the MACs that a sparse kernel would do; below 1 for a sparse branch
    )
    activation_bytes: int = 0  # inputs + outputs at float32, of a layer without layers inside

    @property
    def component(self) -> str:
        return self.name.partition(".")[0]

    @property
    def in_papers(self) -> bool:
        """Whether the papers' account has it: no sparse branch, and none that holds weights but never runs."""
        return self.density == 1 and bool(
            self.macs_conv or self.macs_linear or self.thop_elementwise
        )

    @property
    def ops(self) -> float:
        """MACs of convolutions and linear layers, scaled by their bits."""
        share = 1 / BINARY_OPS if self.arithmetic_bits == 1 else self.arithmetic_bits / FLOAT
        return (self.macs_conv + self.macs_linear) * self.density * share


@dataclass(frozen=True)
class Cost:
    """The cost of a model, or of one component of it, at one input size. Sums are over `layers`."""

    lr_size: tuple[int, int]
    layers: tuple[Layer, ...] = field(repr=False)

    def _sum(self, name: str) -> int:
        return sum(getattr(layer, name) for layer in self.layers)

    @property
    def params(self) -> int:
        return self._sum("params")

    @property
    def param_equivalents(self) -> float:
        """Parameters x stored bits / 32: the papers' "parameters" of a quantised model."""
        return self._sum("param_bits") / FLOAT

    @property
    def bytes(self) -> int:
        """Parameters and persistent buffers with weights packed at their bit width, each layer to whole bytes."""
        return sum(ceil(layer.stored_bits / 8) for layer in self.layers)

    @property
    def container_bytes(self) -> int:
        """The same tensors in the types that hold them now (a 4-bit weight in an int8)."""
        return self._sum("container_bytes")

    @property
    def macs_paper(self) -> int:
        return self._sum("macs_conv") + self._sum("macs_linear")

    @property
    def macs_full(self) -> int:
        return self.macs_paper + self._sum("macs_attention")

    @property
    def macs_equivalent(self) -> float:
        """macs_paper x max(weight bits, activation bits) / 32, and 1 / 64 where both are 1; sparse by its entries."""
        return sum(layer.ops for layer in self.layers)

    @property
    def all_in_ops(self) -> float:
        """macs_equivalent and the products of attention."""
        return self.macs_equivalent + self._sum("macs_attention")

    @property
    def paper_params(self) -> float:
        """What thop counts, a low-bit weight by its bits / 32."""
        return sum(layer.paper_bits for layer in self.layers if layer.in_papers) / FLOAT

    @property
    def paper_ops(self) -> float:
        """What thop counts, low-bit products scaled as in macs_equivalent."""
        return sum(layer.ops + layer.thop_elementwise for layer in self.layers if layer.in_papers)

    @property
    def peak_activation_bytes(self) -> int:
        """The largest input + output of one leaf layer at float32. A lower bound of a runtime's peak: tensors kept
        for skip connections are not in it, and neither is an attention score matrix, which fused kernels avoid."""
        return max((layer.activation_bytes for layer in self.layers), default=0)

    def component(self, name: str) -> "Cost":
        return Cost(self.lr_size, tuple(layer for layer in self.layers if layer.component == name))

    def halves(self, name: str) -> dict[str, "Cost"]:
        """A decoder's cost up to its middle block, where AdcSR joins UNet and decoder, and from there."""
        parts: dict[str, list[Layer]] = {"to the middle block": [], "after it": []}
        for layer in self.component(name).layers:
            tail = any(piece in TAIL for piece in layer.name.split("."))
            parts["after it" if tail else "to the middle block"].append(layer)
        return {part: Cost(self.lr_size, tuple(layers)) for part, layers in parts.items()}

    def components(self) -> dict[str, "Cost"]:
        """Name -> cost, in the order in which they run; "process" holds what ran outside every component."""
        return {
            name: self.component(name)
            for name in dict.fromkeys(layer.component for layer in self.layers)
        }

    def totals(self) -> dict:
        return {
            name: getattr(self, name)
            for name in (
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
        } | {name: self._sum(name) for name in ("macs_conv", "macs_linear", "macs_attention")}

    def as_dict(self, layers: bool = False) -> dict:
        """JSON-ready: the totals, the same for each component, and with `layers` every layer's row."""
        result = {"lr_size": list(self.lr_size)} | self.totals()
        result["components"] = [
            {"name": name} | cost.totals() for name, cost in self.components().items()
        ]
        if layers:
            result["layers"] = [asdict(layer) for layer in self.layers]
        return result


class Replaced(NamedTuple):
    """A part of a published system that a source runs without. Sources that have one return it from `replaced()`."""

    name: str  # one word, the key in JSON
    title: str  # its own name
    by: str  # what stands in for it
    system: str  # the published system
    cost: Cost  # at the part's own input size


class _LinearCalls(TorchFunctionMode):
    """Marks the matrix products of F.linear, which reach the dispatcher as mm, addmm or bmm by memory layout.

    Inside nn.MultiheadAttention, which no source here uses, it sees nothing: on strided input the projections would
    be filed under attention. The sum is right either way.
    """

    active = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not F.linear:
            return func(*args, **(kwargs or {}))
        self.active = True
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.active = False


class _Counter(TorchDispatchMode):
    """Adds the MACs of every operator to the layer that runs, the last of `stack`."""

    def __init__(self, stack: list[Layer], linear: _LinearCalls):
        super().__init__()
        self.stack, self.linear = stack, linear

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        op = func.overloadpacket
        if op in flop_registry:
            kind = "linear" if self.linear.active else _KIND.get(op, "attention")
            flops = flop_registry[op](*args, **kwargs, out_val=out)
        elif "scaled_dot_product" in str(op):
            kind, flops = "attention", sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
        else:
            return out
        layer, name = self.stack[-1], f"macs_{kind}"
        setattr(
            layer, name, getattr(layer, name) + flops // 2
        )  # torch counts a multiply-add as two
        return out


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters and persistent buffers that `module` itself holds, parametrised ones as they are stored."""
    for name, stored in getattr(module, "parametrizations", {}).items():
        yield name, stored.original
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and name not in module._non_persistent_buffers_set:
            yield name, tensor


def _storage(name: str, module: nn.Module, seen: set[int]) -> Layer:
    """A module's row without its MACs. A quantised layer has `weight_bits`, `act_bits` and an int8 `weight_q`, or a
    `weight_shape` whose weights are in the bytes of `weight_packed`."""
    layer = Layer(
        name,
        type(module).__name__.removeprefix("Parametrized"),
        density=getattr(module, "density", 1.0),
    )
    weight_bits = getattr(module, "weight_bits", None)
    if weight_bits is not None:
        layer.arithmetic_bits = max(weight_bits, getattr(module, "act_bits", None) or FLOAT)
    elif isinstance(getattr(module, "weight", None), torch.Tensor):
        layer.arithmetic_bits = module.weight.element_size() * 8
    for key, tensor in _tensors(module):
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        is_weight = weight_bits is not None and key in ("weight", "weight_q", "weight_packed")
        count = module.weight_shape.numel() if key == "weight_packed" else tensor.numel()
        bits = count * (weight_bits if is_weight else tensor.element_size() * 8)
        layer.stored_bits += bits
        layer.container_bytes += tensor.numel() * tensor.element_size()
        if is_weight or isinstance(tensor, nn.Parameter):
            layer.params += count
            layer.param_bits += bits
        if is_weight or isinstance(module, THOP):
            layer.paper_bits += count * (
                weight_bits or FLOAT
            )  # a float is one parameter, however it is stored
    return layer


def meta_copy(model: M) -> M:
    """The same modules with float32 or integer meta tensors in place of values; shared tensors stay shared."""

    def like(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(
            tensor, device="meta", dtype=torch.float32 if tensor.is_floating_point() else None
        )

    memo: dict = {id(p): nn.Parameter(like(p), requires_grad=False) for p in model.parameters()}
    memo |= {id(b): like(b) for b in model.buffers()}
    return copy.deepcopy(model, memo)


def _leaves(model: nn.Module) -> set[nn.Module]:
    """Modules without children; a quantised layer is one, and the quantisers inside it are none."""
    quantised = {m for m in model.modules() if getattr(m, "weight_bits", None) is not None}
    inside = {child for m in quantised for child in m.modules()} - quantised
    return (
        quantised
        | {
            m
            for m in model.modules()
            if all(name == "parametrizations" for name, _ in m.named_children())
        }
    ) - inside


def _elements(value) -> int:
    return sum(
        x.numel() for x in torch.utils._pytree.tree_leaves(value) if isinstance(x, torch.Tensor)
    )


@contextmanager
def _recording(model: nn.Module, rows: dict[str, Layer], outside: Layer) -> Iterator[None]:
    """Count what runs inside: hooks keep a stack of the layers that are running."""
    stack, handles, leaves = [outside], [], _leaves(model)
    for name, module in model.named_modules():

        def enter(_module, _args, row=rows[name]):
            stack.append(row)

        def leave(module, args, kwargs, out):
            row = stack.pop()
            if module in leaves:
                row.activation_bytes = max(row.activation_bytes, 4 * _elements((args, kwargs, out)))
            if isinstance(module, nn.PReLU):
                row.thop_elementwise += out.numel()
            elif isinstance(module, nn.Softmax):  # exponentials, additions and divisions
                row.thop_elementwise += (
                    out.numel() // out.shape[module.dim] * (3 * out.shape[module.dim] - 1)
                )

        handles += [
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave, with_kwargs=True),
        ]
    linear = _LinearCalls()
    try:
        with torch.no_grad(), linear, _Counter(stack, linear):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _count(model: nn.Module, run: Callable[[nn.Module], object], outside: Layer) -> list[Layer]:
    """The rows of the layers that hold or did something while `run` called `model`'s twin on the meta device."""
    seen: set[int] = set()
    rows = {name: _storage(name, module, seen) for name, module in model.named_modules()}
    twin = meta_copy(model).eval()
    with _recording(twin, rows, outside):
        run(twin)
    return [
        row
        for row in (*rows.values(), outside)
        if row.stored_bits
        or row.macs_conv
        or row.macs_linear
        or row.macs_attention
        or row.thop_elementwise
        or row.activation_bytes
    ]


def measure(model: SRModel, lr_size: tuple[int, int] = (128, 128)) -> Cost:
    """Count one run of `model.network` on an image of (height, width) `lr_size`, batch 1.

    Raises UserError when a side is no positive multiple of the model's `multiple`.
    """
    if any(side <= 0 or side % model.multiple for side in lr_size):
        raise UserError(
            f"cost at {lr_size[1]}x{lr_size[0]} pixels: both sides must be positive multiples of "
            f"{model.multiple}, because padding belongs to the image and not to the network"
        )
    used = _count(
        model,
        lambda twin: twin.network(torch.empty(1, 3, *lr_size, device="meta")),
        Layer("process", type(model.process).__name__),
    )
    order = {name: i for i, name in enumerate(SRModel.COMPONENTS)}
    return Cost(
        tuple(lr_size), tuple(sorted(used, key=lambda row: order.get(row.component, len(order))))
    )


def measure_module(module: nn.Module, *inputs: torch.Tensor, name: str) -> Cost:
    """Count one call of any module as a cost of one component, `name`. Of `inputs` only shapes and types matter; the
    last two sides of the first are the cost's `lr_size`."""
    inputs = [tensor.to("meta") for tensor in inputs]
    rows = _count(
        nn.ModuleDict({name: module}),
        lambda twin: twin[name](*inputs),
        Layer(name, type(module).__name__),
    )
    return Cost(tuple(inputs[0].shape[-2:]), tuple(rows))


_HEAD = ("params M", "as fp32 M", "MB", "GMACs", "with attn", "as fp32", "peak MB")


def _figures(cost: Cost) -> tuple[str, ...]:
    return (
        f"{cost.params / 1e6:,.3f}",
        f"{cost.param_equivalents / 1e6:,.3f}",
        f"{cost.bytes / 1e6:,.3f}",
        f"{cost.macs_paper / 1e9:,.3f}",
        f"{cost.macs_full / 1e9:,.3f}",
        f"{cost.macs_equivalent / 1e9:,.3f}",
        f"{cost.peak_activation_bytes / 1e6:,.1f}",
    )


def table(rows: Iterable[tuple[str, Cost]], first: str = "after") -> str:
    """A terminal table of (label, cost) rows, for instance the model after each pass.

    M is 1e6, MB 1e6 bytes packed. "as fp32" scales parameters and MACs by their bits / 32.
    """
    cells = [(first, *_HEAD), *((label, *_figures(cost)) for label, cost in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def component_table(cost: Cost) -> str:
    """The same columns for each component, with the sum below."""
    return table(
        [*cost.components().items(), ("sum", cost)], first=f"at {cost.lr_size[1]}x{cost.lr_size[0]}"
    )
