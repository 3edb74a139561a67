"""The data flow of a model's components: which operator reads whose tensor.

A *flow* is recorded from one run on the meta device. Quantisers stand on tensors between operators,
and what a tensor needs depends on both of its ends. Reading that off a run instead of off the
classes gives every family of networks the same rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from compress.cost.count import meta_copy
from compress.cost.shapes import call_on_meta
from compress.model.sr_model import SRModel
from compress.quant.calls import MOVES, NEUTRAL, SCALAR, operator_of, tensors_of

# The side of the image that is recorded, in pixels, where the model takes multiples of less.
SIDE = 32


@dataclass(eq=False)
class Node:
    """What made a tensor: an operator, or a layer with weights.

    Attributes:
        name: Module and operator, unique in its component.
        op: A value of `OPERATORS`, or "layer".
        layer: A layer's name inside the component; empty where the component is the layer.
        index: An operator's place in the sequence of calls.
        inside: Whether it is part of what a layer does.
        scalar: Whether it computes with a plain number.
        inputs: Makers of the operands. None stands for a constant, or for one of unknown origin.
        shapes: Of the operands.
        consumers: Who reads the result; filled once the run is over.
        is_output: Whether the result leaves the component.
    """

    name: str
    op: str
    layer: str | None = None
    index: int | None = None
    inside: bool = False
    scalar: bool = False
    inputs: list["Node | None"] = field(default_factory=list)
    shapes: list[torch.Size] = field(default_factory=list)
    consumers: list["Node"] = field(default_factory=list)
    is_output: bool = False

    @property
    def source(self) -> "Node | None":
        """The maker of the first operand; None for a constant, or without operands."""
        if self.inputs:
            return self.inputs[0]
        return None


INPUT = "input"


@dataclass
class Flow:
    """One call of a component.

    Attributes:
        source: Stands for the component's first argument.
        nodes: Operators and layers in the order of the run.
    """

    source: Node
    nodes: list[Node]

    def __deepcopy__(self, memo: dict) -> "Flow":
        # A record is not changed, and its chains of nodes are deeper than Python's recursion.
        return self

    def operators(self) -> list[Node]:
        """The operators in the order of their calls; `index` counts them."""
        return [n for n in self.nodes if n.index is not None]

    def layers(self) -> dict[str, Node]:
        """The first call of every layer, by the layer's name."""
        first_calls: dict[str, Node] = {}
        for node in self.nodes:
            if node.layer is not None:
                first_calls.setdefault(node.layer, node)
        return first_calls


class _Recorder(TorchFunctionMode):
    """Writes down the operators and layers of one call of a component.

    Args:
        source: The component's first argument.
    """

    def __init__(self, source: torch.Tensor):
        super().__init__()
        self.flow = Flow(Node(INPUT, INPUT), [])
        self.path: list[str] = [""]  # of the modules that are running
        self.layers_open = 0
        self.operator_count = 0
        self.name_counts: dict[str, int] = {}
        self.origin: dict[int, Node] = {id(source): self.flow.source}
        self.alive: list[torch.Tensor] = [source]  # so that no id comes twice

    def add(self, node: Node, inputs: list[torch.Tensor], out: object) -> None:
        """Append `node`, which made `out` of `inputs`, under a unique name."""
        base = node.name
        count = self.name_counts.get(base, 0) + 1
        self.name_counts[base] = count
        if count > 1:
            node.name = f"{base}_{count}"
        node.inputs = [self.origin.get(id(t)) for t in inputs]
        node.shapes = [t.shape for t in inputs]
        self.flow.nodes.append(node)
        self.set_origin(out, node)

    def set_origin(self, value: object, node: Node | None) -> None:
        """Note that the tensors in `value` were made by `node`; None: it is not known by whom."""
        for tensor in tensors_of(value):
            self.alive.append(tensor)
            if node is None:
                self.origin.pop(id(tensor), None)
            else:
                self.origin[id(tensor)] = node

    def finish(self, out: object) -> Flow:
        """Mark what made `out`, tell every node who reads it, and return the flow."""
        for tensor in tensors_of(out):
            maker = self.origin.get(id(tensor))
            if maker is not None:
                maker.is_output = True
        for node in self.flow.nodes:
            for source in node.inputs:
                if source is not None and node not in source.consumers:
                    source.consumers.append(node)
        return self.flow

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        op = operator_of(func, args, kwargs)
        inputs = tensors_of((args, kwargs))
        # Before the call: an operator in place changes its input's origin.
        origins = [self.origin.get(id(t)) for t in inputs]
        out = call_on_meta(func, args, kwargs)
        if op is not None and op != NEUTRAL:
            self._add_operator(op, args, inputs, out)
        elif origins and (op == NEUTRAL or name in MOVES):
            self.alive += inputs
            self.set_origin(out, origins[0])
        elif name == "embedding":
            # A codebook's lookup: the input at its nearest codes. No arithmetic made it.
            self.set_origin(out, self.flow.source)
        return out

    def _add_operator(self, op: str, args: tuple, inputs: list[torch.Tensor], out: object) -> None:
        module = self.path[-1]
        node = Node(
            f"{module}.{op}" if module else op,
            op,
            inside=self.layers_open > 0,
            index=self.operator_count,
            scalar=op in SCALAR and len(tensors_of(args)) == 1,
        )
        self.operator_count += 1
        self.alive += inputs
        self.add(node, [t for t in inputs if t.is_floating_point()], out)


def is_layer(module: nn.Module) -> bool:
    """Whether a module counts as one layer: a plain one with weights, or a quantising pass's."""
    return isinstance(module, (nn.Conv2d, nn.Linear)) or hasattr(module, "weight_bits")


def record(model: SRModel, only: Sequence[str] | None = None) -> dict[str, Flow]:
    """Record the flow of the first call of each component.

    Args:
        model: It is not run. A twin without values on the meta device is.
        only: Names of the components; None for all that have an input.

    Returns:
        Component's name -> flow.
    """
    twin = meta_copy(model).eval()
    side = max(twin.multiple, SIDE // twin.multiple * twin.multiple)
    flows: dict[str, Flow] = {}
    if only is None:
        only = [name for name, _ in twin.components() if twin.wiring.call(name).inputs]
    for name in only:
        _FlowHooks(name, flows).attach(getattr(twin, name))
    with torch.no_grad():
        twin.image_of(twin.blank(side, side))
    return flows


class _FlowHooks:
    """Hooks on a component that run a recorder during its first call.

    Args:
        name: The component's name.
        flows: Where the flow is put under that name.
    """

    def __init__(self, name: str, flows: dict[str, Flow]):
        self.name = name
        self.flows = flows
        self.recorder: _Recorder | None = None

    def attach(self, component: nn.Module) -> None:
        """Register all hooks; the recorder begins first and ends last."""
        component.register_forward_pre_hook(self._begin)
        for path, module in component.named_modules():
            if path or is_layer(module):
                self._attach_inner(path, module)
        component.register_forward_hook(self._end)

    def _begin(self, _module: nn.Module, args: tuple) -> None:
        if self.name not in self.flows:
            self.recorder = _Recorder(args[0])
            self.recorder.__enter__()

    def _end(self, _module: nn.Module, _args: tuple, out: object) -> None:
        if self.recorder is None:
            return
        self.recorder.__exit__(None, None, None)
        self.flows[self.name] = self.recorder.finish(out)
        self.recorder = None

    def _attach_inner(self, path: str, module: nn.Module) -> None:
        """Keep the recorder's path, and record a layer as one node."""
        opens_layer = is_layer(module)

        def enter(_module: nn.Module, _args: tuple) -> None:
            if self.recorder is not None:
                self.recorder.path.append(path)
                self.recorder.layers_open += opens_layer

        def leave(_module: nn.Module, args: tuple, out: object) -> None:
            if self.recorder is None:
                return
            self.recorder.path.pop()
            self.recorder.layers_open -= opens_layer
            if opens_layer and not self.recorder.layers_open:
                self.recorder.add(Node(path, "layer", layer=path), tensors_of(args), out)

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)
