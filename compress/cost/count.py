"""Counting what a model costs, on the meta device.

No weight is read, no tensor is allocated, and the model is left alone. The batch is 1. A
multiply-accumulate (MAC) is output elements x fan-in. Bias, normalisation, activation and
resampling are never counted, softmax only as thop does.

| account                        | counts                          | leaves out                   |
|--------------------------------|---------------------------------|------------------------------|
| macs_paper                     | convolutions and linear layers, | both products of attention   |
|                                | as thop and the papers do       |                              |
| macs_full                      | the same and both products of   |                              |
|                                | attention                       |                              |
| paper_params, paper_ops        | what thop sees: convolutions,   | norms, biases of low-bit     |
|                                | linear layers, PReLU, softmax;  | layers, products of          |
|                                | low-bit ones x bits / 32, those | attention, sparse branches   |
|                                | of one bit x 1 / 64             |                              |
| param_equivalents, all_in_ops  | the papers' and what those      |                              |
|                                | leave out, sparse branches by   |                              |
|                                | their entries                   |                              |
| bytes, macs_full               | what is stored and done: no     |                              |
|                                | runtime at hand is faster at    |                              |
|                                | one bit than at eight           |                              |

A layer says `weight_bits` and `act_bits` if they are not those of its weight's type, and `density`,
the share of its products that a sparse kernel would do. What a source replaces, such as the tagger
of OSEDiff (DAPE), is no part of an SRModel: `measure` leaves it out and `measure_module` counts it
by itself.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_leaves

from compress.core.errors import UserError
from compress.cost.cost import FLOAT32, FLOAT_BITS, Arithmetic, Cost, Layer
from compress.cost.multiplying import Calls, Operators
from compress.model.sr_model import SRModel

M = TypeVar("M", bound=nn.Module)

FLOAT_BYTES = 4
WEIGHTS = ("weight", "weight_q", "weight_packed")  # of a layer with `weight_bits`
# The types that thop knows, of those that models here are made of.
THOP = (nn.Conv2d, nn.Linear, nn.PReLU, nn.Softmax)


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters and persistent buffers that `module` itself holds.

    Parametrised ones come as they are stored.
    """
    for name, stored in getattr(module, "parametrizations", {}).items():
        yield name, stored.original
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and name not in module._non_persistent_buffers_set:
            yield name, tensor


def _arithmetic(module: nn.Module) -> Arithmetic:
    """In what a layer multiplies: by its `weight_bits` and `act_bits`, else as its weight is."""
    weight_bits = getattr(module, "weight_bits", None)
    if isinstance(weight_bits, int):
        act_bits = getattr(module, "act_bits", None)
        if isinstance(act_bits, int):
            return Arithmetic(weight_bits, act_bits, floating=False)
        return Arithmetic(weight_bits, FLOAT_BITS, floating=True)
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor):
        return FLOAT32
    bits = weight.element_size() * 8
    return Arithmetic(bits, bits, weight.is_floating_point())


def _storage(name: str, module: nn.Module, seen: set[int]) -> Layer:
    """A module's row without its MACs.

    A quantised layer has `weight_bits`, `act_bits` and an int8 `weight_q`, or a `weight_shape`
    whose weights are in the bytes of `weight_packed`.

    Args:
        name: Of the module.
        module: Its children are not counted.
        seen: Identities of the tensors that are counted already; those of the module are added.
    """
    layer = Layer(
        name,
        type(module).__name__.removeprefix("Parametrized"),
        arithmetic=_arithmetic(module),
        density=getattr(module, "density", 1.0),
    )
    weight_bits: int | None = getattr(module, "weight_bits", None)
    for key, tensor in _tensors(module):
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        width = tensor.element_size() * 8
        is_weight = False
        if weight_bits is not None and key in WEIGHTS:
            width = weight_bits
            is_weight = True
        count = tensor.numel()
        if key == "weight_packed":
            shape: Any = module.weight_shape
            count = shape.numel()
        layer.stored_bits += count * width
        layer.container_bytes += tensor.numel() * tensor.element_size()
        if is_weight or isinstance(tensor, nn.Parameter):
            layer.params += count
            layer.param_bits += count * width
        if is_weight or isinstance(module, THOP):
            layer.published_bits += count * (weight_bits or FLOAT_BITS)
    return layer


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else None
    return torch.empty_like(tensor, device="meta", dtype=dtype)


def meta_copy(model: M) -> M:
    """The same modules with float32 or integer meta tensors in place of values.

    Shared tensors stay shared.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(_on_meta(parameter), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = _on_meta(buffer)
    return copy.deepcopy(model, memo)


@contextmanager
def _without_values(model: M) -> Iterator[M]:
    """What `meta_copy` makes of a model with values.

    One on the meta device is given itself: inside, what `meta_copy` puts in place of its narrow or
    constant tensors stands in their places. A copy would take longer than counting it.
    """
    if not any(parameter.is_meta for parameter in model.parameters()):
        yield meta_copy(model)
        return
    places: list[tuple[dict[str, Any], str, torch.Tensor]] = []
    twins: dict[int, torch.Tensor] = {}
    for module in model.modules():
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for table in tables:
            places += [(table, key, x) for key, x in table.items() if _needs_twin(x)]
    for _, _, tensor in places:
        twin = _on_meta(tensor)
        is_learned = isinstance(tensor, nn.Parameter)
        twins[id(tensor)] = nn.Parameter(twin, requires_grad=False) if is_learned else twin
    for table, key, tensor in places:
        table[key] = twins[id(tensor)]
    try:
        yield model
    finally:
        for table, key, tensor in places:
            table[key] = tensor


def _needs_twin(tensor: torch.Tensor | None) -> bool:
    if tensor is None:
        return False
    is_narrow = tensor.is_floating_point() and tensor.dtype != torch.float32
    return is_narrow or not tensor.is_meta


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and the modes of before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _leaves(model: nn.Module) -> set[nn.Module]:
    """Modules without children; a quantised layer is one, and the quantisers inside it are none."""
    quantised: set[nn.Module] = set()
    childless: set[nn.Module] = set()
    for module in model.modules():
        if getattr(module, "weight_bits", None) is not None:
            quantised.add(module)
        if {name for name, _ in module.named_children()} <= {"parametrizations"}:
            childless.add(module)
    inside: set[nn.Module] = set()
    for layer in quantised:
        inside.update(layer.modules())
    return quantised | (childless - inside)


def _elements(value: object) -> int:
    """The elements of all tensors in nested tuples, lists and dicts."""
    return sum(leaf.numel() for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor))


class _RowHooks:
    """Hooks of all modules: while one runs, its row is the last of the stack."""

    def __init__(self, model: nn.Module, rows: dict[str, Layer], stack: list[Layer]):
        self.rows = {module: rows[name] for name, module in model.named_modules()}
        self.leaves = _leaves(model)
        self.stack = stack

    def enter(self, module: nn.Module, _args: tuple[Any, ...]) -> None:
        row = self.rows.get(module)
        if row is not None:
            self.stack.append(row)

    def leave(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        if module not in self.rows:
            return
        row = self.stack.pop()
        if module in self.leaves:
            size = FLOAT_BYTES * _elements((args, kwargs, out))
            row.activation_bytes = max(row.activation_bytes, size)
        if isinstance(module, nn.PReLU):
            row.thop_elementwise += out.numel()
        elif isinstance(module, nn.Softmax):  # exponentials, additions and divisions
            length = out.shape[module.dim]
            row.thop_elementwise += out.numel() // length * (3 * length - 1)


@contextmanager
def _recording(model: nn.Module, rows: dict[str, Layer], outside: Layer) -> Iterator[None]:
    """Count what runs inside: hooks keep a stack of the layers that are running.

    They are torch's hooks of all modules: two of each module are slower than what they count.
    """
    stack = [outside]
    hooks = _RowHooks(model, rows, stack)
    handles = [
        register_module_forward_pre_hook(hooks.enter),
        register_module_forward_hook(hooks.leave, with_kwargs=True),
    ]
    calls = Calls(stack)
    try:
        with torch.no_grad(), calls, Operators(stack, calls):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _count(model: M, run: Callable[[M], object], outside: Layer) -> list[Layer]:
    """The rows of the layers that hold or do something.

    Args:
        model: What is counted.
        run: Calls the model's twin on the meta device.
        outside: The row for what runs outside every module.
    """
    seen: set[int] = set()
    rows = {name: _storage(name, module, seen) for name, module in model.named_modules()}
    with _without_values(model) as twin, _evaluating(twin), _recording(twin, rows, outside):
        run(twin)
    return [row for row in (*rows.values(), outside) if row.is_used]


def measure(model: SRModel, lr_size: tuple[int, int] = (128, 128)) -> Cost:
    """Count one run of `model.network`, batch 1.

    Args:
        model: Its values are not read.
        lr_size: (height, width) of the input in pixels.

    Raises:
        UserError: A side is no positive multiple of the model's `multiple`.
    """
    height, width = lr_size
    if any(side <= 0 or side % model.multiple for side in lr_size):
        raise UserError(
            f"cost at {width}x{height} pixels: both sides must be positive multiples of "
            f"{model.multiple}, because padding belongs to the image and not to the network"
        )

    calls: Counter[str] = Counter()

    def run(twin: SRModel) -> None:
        handles = [
            component.register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
            for name, component in twin.components()
        ]
        try:
            twin.image_of(twin.blank(height, width))
        finally:
            for handle in handles:
                handle.remove()

    rows = _count(model, run, Layer("process", type(model.process).__name__))
    order = {call.component: i for i, call in enumerate(model.wiring.calls)}
    rows.sort(key=lambda row: order.get(row.component, len(order)))
    return Cost((height, width), tuple(rows), dict(calls))


def measure_module(module: nn.Module, *inputs: torch.Tensor, name: str) -> Cost:
    """Count one call of any module as a cost of one component.

    Args:
        module: Its values are not read.
        inputs: Only shapes and types matter. The last two sides of the first are the cost's
            `lr_size`.
        name: Of the component.
    """
    examples = [tensor.to("meta") for tensor in inputs]
    holder = nn.ModuleDict({name: module})

    def run(twin: nn.ModuleDict) -> None:
        twin[name](*examples)

    rows = _count(holder, run, Layer(name, type(module).__name__))
    height, width = examples[0].shape[-2:]
    return Cost((height, width), tuple(rows))
