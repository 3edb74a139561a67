"""Quantisers on the tensors between operators: attention's for PassionSR's placement, all of them for a whole graph.

A network is not rewritten for this. While a component runs, a torch function mode sees every call of an operator, in
the order in which quant/flow.py recorded them, and puts the quantised result in the place of the float one. The same
happens while the exporter traces, so the Q/DQ pairs of the file stand where the simulation has them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from compress.core.errors import UserError
from compress.quant.flow import INPUT, NEUTRAL, SCALAR, Flow, Node, operator_of
from compress.quant.layers import QuantConv2d, QuantLayer, TensorQuantiser
from compress.quant.placement import Placement

PROBS_BITS = 16  # of a softmax's result in a whole graph, as Q-Diffusion (arXiv 2302.04304) has it
DOORSTEP = (*SCALAR, "concat", "resize", "interpolate")
ON_CODES = (
    "add",
    "resize",
)  # what onnxruntime's CPU does on 8-bit codes faster than on floats, besides convolutions
CHUNK = 2**20  # scores that placement cpu holds at once: 4 MiB of floats, which stay in a cache
Bits = Callable[[str, int], int | None]


@dataclass
class Step:
    """One operator of the sequence. `roles` maps out, gate, scores, probs, q, k, v to the path of a quantiser;
    `by_moments` has a GroupNorm computed by `group_norm` below."""

    name: str
    op: str
    roles: dict[str, str] = field(default_factory=dict)
    by_moments: bool = False


class Points(nn.Module):
    """The quantisers of a component's operators, and the sequence in which they come to act."""

    def __init__(
        self,
        steps: list[Step],
        quantisers: dict[str, TensorQuantiser],
        placement: str,
        norm_stride: int = 1,
    ):
        super().__init__()
        self.steps, self.placement, self.norm_stride = steps, placement, norm_stride
        self.table = nn.ModuleDict({key(name): quantiser for name, quantiser in quantisers.items()})

    def names(self) -> list[str]:
        return [name.replace("/", ".") for name in self.table]


def key(name: str) -> str:
    """A point's name as that of a module, which must not have dots."""
    return name.replace(".", "/")


class _Placing(TorchFunctionMode):
    """Runs the operators of one call of `component` with their quantisers."""

    def __init__(self, component: nn.Module):
        super().__init__()
        self.component, self.at = component, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        op = operator_of(func, args, kwargs)
        if op is None:
            return func(*args, **kwargs)
        if op == NEUTRAL:
            return args[0]
        steps = self.component.points.steps
        step = steps[self.at] if self.at < len(steps) else Step("the end", "the end")
        self.at += 1
        if step.op != op:
            raise RuntimeError(
                f"operator {self.at} of this run is {op}, but {step.name} was recorded: the network's "
                "path depends on more than its structure"
            )
        if not step.roles and not step.by_moments:
            return func(*args, **kwargs)
        return self.quantised(step, func, args, kwargs)

    def quantised(self, step: Step, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        roles = {role: self.component.get_submodule(path) for role, path in step.roles.items()}
        if step.op == "attention":
            act = attend_in_chunks if self.component.points.placement == "cpu" else attend
            out = act(roles, *args, **kwargs)
        elif step.by_moments:
            points = self.component.points
            out = group_norm(
                *args, **kwargs, stride=points.norm_stride, rows=points.placement == "cpu"
            )
        elif "gate" in roles:
            out = args[0] * roles["gate"](torch.sigmoid(args[0]))
        else:
            out = func(*args, **kwargs)
        return roles["out"](out) if "out" in roles else out


def attend(
    roles: dict[str, nn.Module],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_,
) -> torch.Tensor:
    """softmax(Q K^T * scale) V with quantised operands, as products that a runtime has integer kernels for."""
    _only_plain(is_causal, dropout_p)
    same = nn.Identity()
    gain = query.shape[-1] ** -0.5 if scale is None else scale
    # In Q's scale: a product with a number between two products would keep runtimes from multiplying integers.
    query = roles["q"](query, gain=gain) if "q" in roles else query * gain
    key, value = roles.get("k", same)(key), roles.get("v", same)(value)
    scores = roles.get("scores", same)(query @ key.transpose(-2, -1))
    if attn_mask is not None:
        scores = scores + attn_mask
    return roles.get("probs", same)(scores.softmax(dim=-1)) @ value


def attend_in_chunks(
    roles: dict[str, nn.Module],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_,
) -> torch.Tensor:
    """The same for 8 bits everywhere, with CHUNK scores at a time.

    What is rounded is exp(score - the row's greatest), 1 at most in every row, and the product is divided by the sum of
    the rounded: among thousands of keys, one grid for the probabilities themselves loses the flat rows or the peaks.
    """
    _only_plain(is_causal, dropout_p)
    gain = query.shape[-1] ** -0.5 if scale is None else scale
    key, value = roles["k"](key).transpose(-2, -1), roles["v"](value)
    rows = rows_of_chunk(*query.shape[:-1], key.shape[-1])
    masks = [None] * query.shape[-2] if attn_mask is None else attn_mask.split(rows, -2)
    parts = []
    for part, mask in zip(query.split(rows, -2), masks):
        scores = roles["q"](part, gain=gain) @ key
        scores = scores if mask is None else scores + mask
        weights = roles["probs"]((scores - scores.amax(-1, keepdim=True)).exp())
        parts.append(weights @ value / weights.sum(-1, keepdim=True))
    return parts[0] if len(parts) == 1 else torch.cat(parts, -2)


def rows_of_chunk(*shape: int) -> int:
    """How many rows of scores [..., rows, keys] a chunk has: CHUNK numbers, or all where a traced size is not known."""
    *front, rows, keys = shape
    if not all(isinstance(side, int) for side in shape):
        return rows
    return max(1, CHUNK // (math.prod(front) * keys))


def _only_plain(is_causal: bool, dropout_p: float) -> None:
    if is_causal or dropout_p:
        raise UserError(
            "causal attention and dropout have no quantised form; take placement compat without attention"
        )


def group_norm(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    stride: int = 1,
    rows: bool = False,
) -> torch.Tensor:
    """F.group_norm of a map as moments per channel and one factor and one summand per channel.

    Between integer convolutions, which run with channels last, reductions over positions and products with vectors
    stay in that layout; an InstanceNormalization would have the map transposed twice.
    """
    if x.ndim != 4:
        return F.group_norm(x, num_groups, weight, bias, eps)
    if rows:  # every stride-th row, as long as 64 remain
        seen = x[:, :, :: max(1, min(stride, x.shape[2] // 64))]
    else:  # every stride-th row and column
        seen = F.max_pool2d(x, 1, stride) if stride > 1 else x
    # Along rows, then over rows: a runtime that adds float32 one after the other loses less, and of a flat map, where
    # the variance is a small difference of large numbers, nothing else would be left.
    mean = seen.mean(3, keepdim=True).mean(2, keepdim=True)  # [B, C, 1, 1]
    square = (seen * seen).mean(3, keepdim=True).mean(2, keepdim=True)

    def of_groups(values: torch.Tensor) -> torch.Tensor:  # [B, C, 1, 1] -> [B, groups, 1, 1]
        return values.view(x.shape[0], num_groups, -1).mean(2)[..., None, None]

    def of_channels(values: torch.Tensor) -> torch.Tensor:  # and back
        return values.expand(-1, -1, x.shape[1] // num_groups, -1).reshape(x.shape[0], -1, 1, 1)

    mean, square = of_groups(mean), of_groups(square)
    inverse = of_channels((square - mean * mean).clamp(min=0).add(eps).rsqrt())
    factor = inverse if weight is None else inverse * weight.view(1, -1, 1, 1)
    summand = -of_channels(mean) * factor
    return x * factor + (summand if bias is None else summand + bias.view(1, -1, 1, 1))


class _Placed:
    """Mixed into a component's class by `place`."""

    def forward(self, *args, **kwargs):
        with _Placing(self):
            return super().forward(*args, **kwargs)


@cache
def placed(cls: type) -> type:
    return type(cls.__name__, (_Placed, cls), {})


def outward(node: Node) -> bool:
    """Whether a tensor goes to the component's output and nowhere else, if through numbers or beside others."""
    readers = [n for n in node.consumers if not n.inside]
    return (
        node.is_output
        or bool(readers)
        and all((n.scalar or n.op == "concat") and outward(n) for n in readers)
    )


def on_doorstep(node: Node | None) -> bool:
    """Whether a tensor is the component's input, a constant, or made of those by scaling and resampling alone."""
    return (
        node is None
        or node.op == INPUT
        or node.op in DOORSTEP
        and all(on_doorstep(n) for n in node.inputs)
    )


def reads(node: Node, placement: str) -> bool:
    """Whether this reader wants its operands on a grid. Layers and attention see to that themselves, and a product with
    a number folds into the scale after it."""
    if node.op in ("layer", "attention") or node.inside or node.scalar:
        return False
    if placement == "cpu":
        return node.op in ON_CODES and len(node.shapes[0]) == 4
    return placement == "full" or node.op == "matmul"


class _Placement:
    def __init__(
        self, component: nn.Module, flow: Flow, bits: Bits, placement: str, norm_stride: int
    ):
        self.component, self.flow, self.bits, self.placement = component, flow, bits, placement
        self.full, self.norm_stride = placement == "full", norm_stride
        self.device = next((p.device for p in component.parameters()), torch.device("meta"))
        self.steps = [Step(node.name, node.op) for node in flow.operators()]
        self.quantisers: dict[str, TensorQuantiser] = {}
        self.paths: dict[Node, str] = {}  # of the quantiser of a node's result
        self.widths: dict[Node, int] = {}

    def point(self, name: str, pinned: bool = False, signed: bool = False) -> str | None:
        """The path of a new quantiser, or None where the tensor is to stay in float."""
        # A row of n probabilities sums to 1, so that steps of 1/256 lose them all where n is in the thousands.
        bits = self.bits(
            name, PROBS_BITS if self.full and pinned and not name.endswith(".gate") else 0
        )
        if bits is None:
            return None
        with torch.device(self.device):
            self.quantisers[name] = TensorQuantiser(bits, pinned, signed)
        return f"points.table.{key(name)}"

    def result(self, node: Node) -> None:
        """A quantiser for what `node` puts out, if a reader wants one."""
        wanted = any(reads(n, self.placement) for n in node.consumers)
        wanted = wanted or self.placement == "cpu" and self.on_codes(node)
        if outward(node) or on_doorstep(node) or not wanted:
            return
        if node.layer is not None:
            self.layer_result(node)
        elif node.op == "resize" and node.inputs[0] in self.paths:
            self.paths[node], self.widths[node] = (
                self.paths[node.inputs[0]],
                self.widths[node.inputs[0]],
            )
        elif path := self.point(node.name, pinned=node.op == "softmax"):
            self.paths[node], self.widths[node] = path, self.quantisers[node.name].grid.bits

    def on_codes(self, node: Node) -> bool:
        """Whether a kernel can put this tensor out as codes: a convolution, or a sum of codes."""
        if node.layer is not None:
            return isinstance(self.component.get_submodule(node.layer), QuantConv2d)
        return reads(node, "cpu") and all(n in self.paths for n in node.inputs)

    def layer_result(self, node: Node) -> None:
        layer = self.component.get_submodule(node.layer)
        if isinstance(layer, QuantLayer):
            if layer.output is None:
                with torch.device(self.device):
                    layer.output = TensorQuantiser(layer.act_bits)
            self.paths[node], self.widths[node] = f"{node.layer}.output", layer.act_bits
        elif self.placement != "compat" and (inner := self.steps_inside(node)):
            if inner[-1].op in ("conv2d", "linear") and (path := self.point(inner[-1].name)):
                self.paths[node], self.widths[node] = (
                    path,
                    self.quantisers[inner[-1].name].grid.bits,
                )
                self.steps[inner[-1].index].roles["out"] = path

    def steps_inside(self, node: Node) -> list[Node]:
        return [n for n in self.flow.nodes if n.inside and n.name.startswith(f"{node.layer}.")]

    def resized(self, node: Node) -> None:
        """Copies of neighbours need no range of their own: the tensor's own quantiser, again, for the kernels' sake."""
        source = node.inputs[0]
        if node not in self.paths and source in self.paths:
            self.paths[node], self.widths[node] = self.paths[source], self.widths[source]

    def inside(self, node: Node) -> None:
        """What a compound operator quantises between its own steps."""
        roles = self.steps[node.index].roles
        if node.op == "attention" and self.placement == "cpu":
            # Integer products want the right operand signed: VNNI multiplies unsigned by signed bytes.
            found = {
                role: self.point(f"{node.name}.{role}", signed=role in "kv", pinned=role == "probs")
                for role in ("q", "k", "v", "probs")
            }
            if all(found.values()):
                roles |= found
        elif node.op == "attention":
            roles |= {role: path for role in "qkv" if (path := self.point(f"{node.name}.{role}"))}
            pairs = [("probs", True)] + [("scores", False)] * self.full
            roles |= {
                role: path
                for role, pinned in pairs
                if (path := self.point(f"{node.name}.{role}", pinned))
            }
        elif node.op == "silu" and self.full and not node.inside:
            if self.bits(node.name, 0) is not None and (
                path := self.point(f"{node.name}.gate", pinned=True)
            ):
                roles["gate"] = path

    def __call__(self) -> None:
        for node in self.flow.nodes:
            if not node.inside:
                self.result(node)
                if node.op == "resize":
                    self.resized(node)
        for node in self.flow.operators():
            if self.full or node.op == "attention":
                self.inside(node)
            if node in self.paths:
                self.steps[node.index].roles["out"] = self.paths[node]
            # A norm of what stays in float has no integer neighbours to suit; nor has one in placement cpu, where codes
            # change their layout at a quarter of the cost of floats.
            suits = (
                self.norm_stride > 1 if self.placement == "cpu" else node.inputs[0] in self.paths
            )
            self.steps[node.index].by_moments = node.op == "group_norm" and suits
        for node in self.flow.layers().values():
            layer, source = (
                self.component.get_submodule(node.layer),
                node.inputs[0] if node.inputs else None,
            )
            if isinstance(layer, QuantLayer) and self.widths.get(source) == layer.act_bits:
                layer.input = None


def place(
    component: nn.Module, flow: Flow, bits: Bits, placement: str, norm_stride: int = 1
) -> None:
    """Give a component with quantised layers the quantisers of its operators. `bits` of a point's name: None for float.

    `placement` full: whatever an operator puts out for another to read. cpu: what convolutions put out, and sums and
    enlarged copies of that. compat: the operands of attention only. What goes in and out of a component stays as it is.
    `norm_stride` 2 estimates a GroupNorm's moments from every second row and column of a quantised map: no longer the
    same function, and a quarter of the work.
    """
    placing = _Placement(component, flow, bits, placement, norm_stride)
    placing()
    component.points = Points(placing.steps, placing.quantisers, placement, norm_stride)
    component.__class__ = placed(type(component))


def placements_in(module: nn.Module) -> list[Placement]:
    """What a model or part quantises, sorted by name: empty for floats, several where passes differ."""
    found = {
        Placement.of(m.placement, attention=True) for m in module.modules() if isinstance(m, Points)
    }
    within = {id(layer) for m in module.modules() if hasattr(m, "points") for layer in m.modules()}
    if any(isinstance(m, QuantLayer) and id(m) not in within for m in module.modules()):
        found.add(Placement.COMPAT)
    return sorted(found)


def placement_of(module: nn.Module) -> str:
    """The same as a label: none, one placement, or several with commas between."""
    return ", ".join(placements_in(module)) or "none"


def float_operators(component: nn.Module, flow: Flow) -> dict[str, int]:
    """How many operators of each kind put out a tensor that others read in float, for the ledger."""
    counts: dict[str, int] = {}
    steps = component.points.steps if hasattr(component, "points") else []
    for node in flow.operators():
        quantised = node.index < len(steps) and "out" in steps[node.index].roles
        exempt = quantised or node.inside or outward(node) or on_doorstep(node)
        if not exempt and any(reads(n, "full") for n in node.consumers):
            counts[node.op] = counts.get(node.op, 0) + 1
    return counts
