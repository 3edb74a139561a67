"""Quantisers on the tensors between operators.

A *point* is a tensor between two operators of a component that has a quantiser of its own. A
network is not rewritten for that. While a component runs, a torch function mode sees every call of
an operator, in the order in which flow.py recorded them, and puts the quantised result in the place
of the float one. The same happens while the exporter traces, so the Q/DQ pairs of the file stand
where the simulation has them.

Which points a component has is decided in point_planner.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from compress.quant.attention import attend, attend_in_chunks
from compress.quant.calls import NEUTRAL, operator_of
from compress.quant.layers import QuantLayer
from compress.quant.norm import group_norm
from compress.quant.placement import Placement
from compress.quant.quantiser import TensorQuantiser


@dataclass
class Step:
    """One operator of a component's sequence.

    Attributes:
        name: Module and operator, unique in the component.
        op: The operator.
        roles: `out`, `gate`, `scores`, `probs`, `q`, `k` or `v` -> the path of a quantiser in the
            component.
        by_moments: Whether a GroupNorm is computed by norm.py.
    """

    name: str
    op: str
    roles: dict[str, str] = field(default_factory=dict)
    by_moments: bool = False


class Points(nn.Module):
    """The quantisers of a component's operators, and the sequence in which they act.

    Args:
        steps: Every operator in the order of the run.
        quantisers: A point's name -> its quantiser.
        placement: `compat`, `cpu` or `full`.
        norm_stride: Of the positions that a GroupNorm's moments are taken from.
    """

    def __init__(
        self,
        steps: list[Step],
        quantisers: dict[str, TensorQuantiser],
        placement: str,
        norm_stride: int = 1,
    ):
        super().__init__()
        self.steps = steps
        self.placement = placement
        self.norm_stride = norm_stride
        self.table = nn.ModuleDict({key(name): quantiser for name, quantiser in quantisers.items()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` as it is: an nn.Sequential with points calls them as its last module."""
        return x

    def names(self) -> list[str]:
        """The names of all points."""
        return [name.replace("/", ".") for name in self.table]


def key(name: str) -> str:
    """A point's name as that of a module, which must not have dots."""
    return name.replace(".", "/")


def path_of(name: str) -> str:
    """The path inside the component of the quantiser of the point called `name`."""
    return f"points.table.{key(name)}"


def points_of(component: nn.Module) -> Points | None:
    """The points of a component, None where it has none."""
    points = getattr(component, "points", None)
    return points if isinstance(points, Points) else None


class QuantizedOperators(TorchFunctionMode):
    """Runs the operators of one call of a component with their quantisers.

    Args:
        component: The module that is called.
        points: Its points.
    """

    def __init__(self, component: nn.Module, points: Points):
        super().__init__()
        self.component = component
        self.points = points
        self.position = 0  # of the next operator in the sequence

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        op = operator_of(func, args, kwargs)
        if op is None:
            return func(*args, **kwargs)
        if op == NEUTRAL:
            return args[0]
        step = self._next_step(op)
        if not step.roles and not step.by_moments:
            return func(*args, **kwargs)
        return self._run(step, func, args, kwargs)

    def _next_step(self, op: str) -> Step:
        """The step that `op` is. Raises RuntimeError where another one was recorded."""
        steps = self.points.steps
        in_sequence = self.position < len(steps)
        step = steps[self.position] if in_sequence else Step("the end", "the end")
        self.position += 1
        if step.op != op:
            raise RuntimeError(
                f"operator {self.position} of this run is {op}, but {step.name} was recorded: "
                "the network's path depends on more than its structure"
            )
        return step

    def _run(self, step: Step, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        """Compute one operator with the quantisers of its step."""
        roles = {role: self.component.get_submodule(path) for role, path in step.roles.items()}
        for_cpu = self.points.placement == Placement.CPU
        if step.op == "attention":
            attention = attend_in_chunks if for_cpu else attend
            out = attention(roles, *args, **kwargs)
        elif step.by_moments:
            stride = self.points.norm_stride
            out = group_norm(*args, **kwargs, stride=stride, rows=for_cpu)
        elif "gate" in roles:
            out = args[0] * roles["gate"](torch.sigmoid(args[0]))
        else:
            out = func(*args, **kwargs)
        if "out" in roles:
            return roles["out"](out)
        return out


class _RunsWithPoints(nn.Module):
    """Mixed into a component's class by `install_points`."""

    points: Points

    def forward(self, *args, **kwargs):
        with QuantizedOperators(self, self.points):
            return super().forward(*args, **kwargs)


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def _with_points(cls: type[nn.Module]) -> type[nn.Module]:
    """The subclass of a component's class whose forward runs with its points; one for each."""
    if cls not in _CLASSES:
        _CLASSES[cls] = type(cls.__name__, (_RunsWithPoints, cls), {})
    return _CLASSES[cls]


def install_points(component: nn.Module, points: Points) -> None:
    """Give a component its points, and let its calls run with them.

    The component's class is exchanged for a subclass, whose forward is one `with` around the
    component's own. That leaves the mode whatever happens in the call, and keeps no state between
    two hooks.
    """
    component.points = points
    component.__class__ = _with_points(type(component))


def placements_in(module: nn.Module) -> list[Placement]:
    """What a model or part quantises, sorted by name.

    It is empty for floats, and has several entries where passes differ.
    """
    modules = list(module.modules())
    placements = {
        Placement.of(m.placement, attention=True) for m in modules if isinstance(m, Points)
    }
    planned: set[nn.Module] = set()
    for component in modules:
        if points_of(component) is not None:
            planned.update(component.modules())
    if any(isinstance(m, QuantLayer) and m not in planned for m in modules):
        placements.add(Placement.COMPAT)
    return sorted(placements)


def placement_of(module: nn.Module) -> str:
    """The same as a label: none, one placement, or several with commas between."""
    return ", ".join(placements_in(module)) or "none"
