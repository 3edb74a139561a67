"""The data flow of a model's components, recorded from one run on the meta device: which operator reads whose tensor.

Quantisers stand on tensors between operators, and what a tensor needs depends on both ends. Reading it off a run
instead of off the classes gives every family of networks the same rules.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from compress.cost.count import meta_copy
from compress.model.sr_model import SRModel

COMPONENTS = ("encoder", "denoiser", "decoder")
# Functions that compute new values, under the names that torch calls them by.
OPERATORS = {
    **dict.fromkeys(("add", "add_", "__add__", "__radd__", "__iadd__"), "add"),
    **dict.fromkeys(("sub", "sub_", "__sub__", "__rsub__", "rsub", "__isub__"), "sub"),
    **dict.fromkeys(("mul", "mul_", "__mul__", "__rmul__", "multiply", "__imul__"), "mul"),
    **dict.fromkeys(
        ("div", "div_", "__truediv__", "__rdiv__", "__rtruediv__", "true_divide"), "div"
    ),
    **dict.fromkeys(("cat", "concat", "concatenate"), "concat"),
    **dict.fromkeys(("matmul", "__matmul__", "bmm", "baddbmm"), "matmul"),
    **dict.fromkeys(
        (
            "conv2d",
            "linear",
            "silu",
            "gelu",
            "relu",
            "leaky_relu",
            "sigmoid",
            "tanh",
            "softmax",
            "group_norm",
            "layer_norm",
            "instance_norm",
        ),
        "",
    ),
    "silu_": "silu",
    "relu_": "relu",
    "scaled_dot_product_attention": "attention",
    "interpolate": "resize",
}
NEUTRAL = "neutral"
SCALAR = ("add", "sub", "mul", "div")
# Functions that move values without changing them. (Zero padding: every quantiser's range contains 0.)
MOVES = frozenset(
    (
        "reshape",
        "view",
        "flatten",
        "unflatten",
        "transpose",
        "permute",
        "movedim",
        "chunk",
        "split",
        "unbind",
        "__getitem__",
        "squeeze",
        "unsqueeze",
        "contiguous",
        "expand",
        "clone",
        "detach",
        "to",
        "float",
        "type",
        "roll",
        "pad",
        "pixel_shuffle",
        "pixel_unshuffle",
        "narrow",
        "repeat_interleave",
        "t",
        "select",
    )
)


class _Pause:
    depth = 0


@contextmanager
def paused() -> Iterator[None]:
    """Within, functions are a quantiser's or a quantised layer's own arithmetic: no operator of the network."""
    _Pause.depth += 1
    try:
        yield
    finally:
        _Pause.depth -= 1


def operator_of(func: Callable, args: tuple, kwargs: dict) -> str | None:
    """The operator that a torch function call is, or None: not in the table, of no map or tokens, or paused.

    NEUTRAL is a product with 1 or a sum with 0, as in diffusers' rescaling of residuals: a move.
    """
    name = getattr(func, "__name__", "")
    if _Pause.depth or name not in OPERATORS:
        return None
    tensors = tensors_of(args)
    if not any(t.is_floating_point() and t.ndim > 1 for t in tensors):
        return None
    op = OPERATORS[name] or name
    if (
        op in ("mul", "div", "add", "sub")
        and name == op
        and len(args) == 2
        and not isinstance(args[1], torch.Tensor)
    ):
        if args[1] == (1 if op in ("mul", "div") else 0):
            return NEUTRAL
    if (
        op == "resize"
        and (kwargs.get("mode") or (args[3] if len(args) > 3 else "nearest")) != "nearest"
    ):
        return "interpolate"
    return op


def tensors_of(value: object) -> list[torch.Tensor]:
    return [t for t in tree_leaves(value) if isinstance(t, torch.Tensor)]


@dataclass(eq=False)
class Node:
    """What made a tensor: an operator, or a layer with weights (`layer`: its name inside the component)."""

    name: str  # module and operator, unique in its component
    op: str  # of OPERATORS, or "layer"
    layer: str | None = None
    index: int | None = None  # of an operator, its place in the sequence of calls
    inside: bool = False  # part of what a layer of another pass does
    scalar: bool = False  # with a plain number
    inputs: list["Node | None"] = field(
        default_factory=list
    )  # None: a constant, or of unknown origin
    shapes: list[torch.Size] = field(default_factory=list)  # of the inputs
    consumers: list["Node"] = field(default_factory=list)  # filled once the run is over
    is_output: bool = False


INPUT = "input"


@dataclass
class Flow:
    """One call of a component. `source` stands for its first argument; `nodes` are in the order of the run."""

    source: Node
    nodes: list[Node]

    def __deepcopy__(self, memo: dict) -> "Flow":
        return self  # a record is not changed, and its chains of nodes are deeper than Python's recursion

    def operators(self) -> list[Node]:
        return [n for n in self.nodes if n.index is not None]

    def layers(self) -> dict[str, Node]:
        """The first call of every layer, by the layer's name."""
        found: dict[str, Node] = {}
        for node in self.nodes:
            if node.layer is not None:
                found.setdefault(node.layer, node)
        return found


class _Recorder(TorchFunctionMode):
    def __init__(self, source: torch.Tensor):
        super().__init__()
        self.flow = Flow(Node(INPUT, INPUT), [])
        self.stack: list[str] = [""]
        self.inside = self.count = 0
        self.names: dict[str, int] = {}
        self.origin: dict[int, Node] = {id(source): self.flow.source}
        self.alive: list[torch.Tensor] = [source]  # so that no id comes twice

    def add(self, node: Node, inputs: list[torch.Tensor], out: object) -> None:
        base, count = node.name, self.names.get(node.name, 0) + 1
        self.names[base] = count
        node.name = base if count == 1 else f"{base}_{count}"
        node.inputs = [self.origin.get(id(t)) for t in inputs]
        node.shapes = [t.shape for t in inputs]
        self.flow.nodes.append(node)
        self.put(out, node)

    def put(self, value: object, node: Node | None) -> None:
        for tensor in tensors_of(value):
            self.alive.append(tensor)
            if node is None:
                self.origin.pop(id(tensor), None)
            else:
                self.origin[id(tensor)] = node

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        op = operator_of(func, args, kwargs)
        inputs = tensors_of((args, kwargs))
        before = [
            self.origin.get(id(t)) for t in inputs
        ]  # an operator in place changes its input's origin
        out = func(*args, **kwargs)
        if op is not None and op != NEUTRAL:
            operands = tensors_of(args)
            node = Node(
                ".".join(filter(None, (self.stack[-1], op))),
                op,
                inside=self.inside > 0,
                index=self.count,
                scalar=op in SCALAR and len(operands) == 1,
            )
            self.count += 1
            self.alive += inputs
            self.add(node, [t for t in inputs if t.is_floating_point()], out)
        elif before and (op == NEUTRAL or getattr(func, "__name__", "") in MOVES):
            self.alive += inputs
            self.put(out, before[0])
        elif getattr(func, "__name__", "") == "embedding":
            # A codebook's lookup: the component's input at its nearest codes. No arithmetic made it.
            self.put(out, self.flow.source)
        return out


def is_layer(module: nn.Module) -> bool:
    """Modules that count as one layer: plain ones with weights, and those of the quantising passes."""
    return isinstance(module, (nn.Conv2d, nn.Linear)) or hasattr(module, "weight_bits")


def record(model: SRModel, only: tuple[str, ...] = COMPONENTS) -> dict[str, Flow]:
    """The flow of the first call of each component in `only`, from a run of the model's twin on the meta device."""
    twin = meta_copy(model).eval()
    side = max(twin.multiple, 32 // twin.multiple * twin.multiple)
    flows: dict[str, Flow] = {}
    for name in only:
        _watch(getattr(twin, name), name, flows)
    with torch.no_grad():
        twin.network(torch.empty(1, 3, side, side, device="meta"))
    return flows


def _watch(component: nn.Module, name: str, flows: dict[str, Flow]) -> None:
    state: dict[str, _Recorder] = {}

    def begin(_module, args):
        if name not in flows:
            state["recorder"] = recorder = _Recorder(args[0])
            recorder.__enter__()

    def end(_module, _args, out):
        recorder = state.pop("recorder", None)
        if recorder is None:
            return
        recorder.__exit__(None, None, None)
        for tensor in tensors_of(out):
            node = recorder.origin.get(id(tensor))
            if node is not None:
                node.is_output = True
        for node in recorder.flow.nodes:
            for source in node.inputs:
                if source is not None and node not in source.consumers:
                    source.consumers.append(node)
        flows[name] = recorder.flow

    def enter(path: str, layer: bool):
        def hook(_module, _args):
            if recorder := state.get("recorder"):
                recorder.stack.append(path)
                recorder.inside += layer

        return hook

    def leave(path: str, layer: bool):
        def hook(_module, args, out):
            if recorder := state.get("recorder"):
                recorder.stack.pop()
                recorder.inside -= layer
                if layer and not recorder.inside:
                    recorder.add(Node(path, "layer", layer=path), tensors_of(args), out)

        return hook

    component.register_forward_pre_hook(begin)
    for path, module in component.named_modules():
        if path:
            layer = is_layer(module)
            module.register_forward_pre_hook(enter(path, layer))
            module.register_forward_hook(leave(path, layer))
    component.register_forward_hook(end)
