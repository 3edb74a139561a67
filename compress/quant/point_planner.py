"""Which tensors of a component get a quantiser: attention's operands, or those of a whole graph."""

from collections.abc import Callable

import torch
from torch import nn

from compress.quant.flow import Flow, Node
from compress.quant.graph_rules import (
    feeds_output_only,
    is_rescaled_input,
    wants_codes,
)
from compress.quant.layers import QuantConv2d, QuantLayer
from compress.quant.placement import Placement
from compress.quant.points import Points, Step, install_points, path_of, points_of
from compress.quant.quantiser import TensorQuantiser

# Of a softmax's result in a whole graph, as in Q-Diffusion (arXiv 2302.04304): a row of n
# probabilities sums to 1, so that steps of 1/256 lose them all where n is in the thousands.
PROBS_BITS = 16
# (a point's name, the least bits unless the recipe says otherwise) -> its bits, None for float.
BitsOf = Callable[[str, int], int | None]


def place_points(
    component: nn.Module, flow: Flow, bits: BitsOf, placement: str, norm_stride: int = 1
) -> None:
    """Give a component with quantised layers the quantisers of its operators.

    What goes in and out of the component stays as it is.

    Args:
        component: Its layers are quantised already.
        flow: Recorded from it.
        bits: Says the bits of a point.
        placement: `full`: whatever an operator puts out for another to read. `cpu`: what
            convolutions put out, and sums and enlarged copies of that. `compat`: the operands of
            attention only.
        norm_stride: 2 estimates a GroupNorm's moments from every second row and column of a
            quantised map. That is no longer the same function, and a quarter of the work.
    """
    planner = PointPlanner(component, flow, bits, placement, norm_stride)
    planner.plan()
    steps = list(planner.steps.values())
    points = Points(steps, planner.quantisers, placement, norm_stride)
    install_points(component, points)


class PointPlanner:
    """Decides which operator gets which quantiser. The arguments are those of `place_points`.

    Attributes:
        steps: Every operator's step, in the order of the run.
        quantisers: A new point's name -> its quantiser.
        paths: A node -> the path of the quantiser of its result.
        widths: A node -> the bits of its result.
    """

    def __init__(
        self, component: nn.Module, flow: Flow, bits: BitsOf, placement: str, norm_stride: int
    ):
        self.component = component
        self.flow = flow
        self.bits = bits
        self.placement = placement
        self.is_full = placement == Placement.FULL
        self.is_cpu = placement == Placement.CPU
        self.norm_stride = norm_stride
        first = next(component.parameters(), None)
        self.device = torch.device("meta") if first is None else first.device
        self.steps = {node: Step(node.name, node.op) for node in flow.operators()}
        self.quantisers: dict[str, TensorQuantiser] = {}
        # None, which stands for a constant, never is a key.
        self.paths: dict[Node | None, str] = {}
        self.widths: dict[Node | None, int] = {}

    def plan(self) -> None:
        """Fill `steps` and `quantisers`, and change layers' own quantisers to suit."""
        for node in self.flow.nodes:
            if not node.inside:
                self._quantise_result(node)
        for node, step in self.steps.items():
            if self.is_full or node.op == "attention":
                self._quantise_within(node, step)
            if node in self.paths:
                step.roles["out"] = self.paths[node]
            if node.op == "group_norm":
                step.by_moments = self._suits_moments(node)
        self._drop_inputs_on_a_grid()

    def _add_point(self, name: str, pinned: bool = False, signed: bool = False) -> str | None:
        """Make a quantiser and return its path; None where the tensor is to stay in float."""
        is_probability = self.is_full and pinned and not name.endswith(".gate")
        bits = self.bits(name, PROBS_BITS if is_probability else 0)
        if bits is None:
            return None
        with torch.device(self.device):
            self.quantisers[name] = TensorQuantiser(bits, pinned, signed)
        return path_of(name)

    def _quantise_result(self, node: Node) -> None:
        """Put a quantiser on what `node` puts out, if a reader wants one."""
        source = node.source
        if node.op == "resize" and source in self.paths:
            # Copies of neighbours need no range of their own: the tensor's own quantiser, again,
            # for the kernels' sake.
            self._note(node, self.paths[source], self.widths[source])
            return
        if feeds_output_only(node) or is_rescaled_input(node) or not self._is_wanted(node):
            return
        if node.layer is not None:
            self._quantise_layer_result(node, node.layer)
            return
        path = self._add_point(node.name, pinned=node.op == "softmax")
        if path is not None:
            self._note(node, path, self.quantisers[node.name].grid.bits)

    def _note(self, node: Node, path: str, bits: int) -> None:
        self.paths[node] = path
        self.widths[node] = bits

    def _is_wanted(self, node: Node) -> bool:
        if any(wants_codes(n, self.placement) for n in node.consumers):
            return True
        return self.is_cpu and self._comes_as_codes(node)

    def _comes_as_codes(self, node: Node) -> bool:
        """Whether a kernel can put this tensor out as codes: a convolution, or a sum of codes."""
        if node.layer is not None:
            return isinstance(self.component.get_submodule(node.layer), QuantConv2d)
        return wants_codes(node, Placement.CPU) and self.paths.keys() >= set(node.inputs)

    def _quantise_layer_result(self, node: Node, name: str) -> None:
        """Give a quantised layer an output quantiser, or a float layer's own operator a point."""
        layer = self.component.get_submodule(name)
        if isinstance(layer, QuantLayer):
            if layer.output is None:
                with torch.device(self.device):
                    layer.output = TensorQuantiser(layer.act_bits)
            self._note(node, f"{name}.output", layer.act_bits)
            return
        if self.placement == Placement.COMPAT:
            return
        inner = [n for n in self.flow.nodes if n.inside and n.name.startswith(f"{name}.")]
        if not inner or inner[-1].op not in ("conv2d", "linear"):
            return
        last = inner[-1]
        path = self._add_point(last.name)
        if path is not None:
            self._note(node, path, self.quantisers[last.name].grid.bits)
            self.steps[last].roles["out"] = path

    def _quantise_within(self, node: Node, step: Step) -> None:
        """Quantise between the steps of a compound operator."""
        if node.op == "attention" and self.is_cpu:
            self._quantise_attention_for_cpu(node, step)
        elif node.op == "attention":
            self._quantise_attention(node, step)
        elif node.op == "silu" and self._splits_silu(node):
            self._add_role(node, step, "gate", pinned=True)

    def _splits_silu(self, node: Node) -> bool:
        """Whether a SiLU is computed as a product with its gate; one left in float is not."""
        return self.is_full and not node.inside and self.bits(node.name, 0) is not None

    def _add_role(self, node: Node, step: Step, role: str, pinned: bool = False) -> None:
        path = self._add_point(f"{node.name}.{role}", pinned)
        if path is not None:
            step.roles[role] = path

    def _quantise_attention(self, node: Node, step: Step) -> None:
        """Q, K, V and the softmax; in a whole graph the scores too."""
        for role in ("q", "k", "v"):
            self._add_role(node, step, role)
        self._add_role(node, step, "probs", pinned=True)
        if self.is_full:
            self._add_role(node, step, "scores")

    def _quantise_attention_for_cpu(self, node: Node, step: Step) -> None:
        """All four operands or none.

        Integer products want the right operand signed: VNNI multiplies unsigned by signed bytes.
        """
        paths = {
            "q": self._add_point(f"{node.name}.q"),
            "k": self._add_point(f"{node.name}.k", signed=True),
            "v": self._add_point(f"{node.name}.v", signed=True),
            "probs": self._add_point(f"{node.name}.probs", pinned=True),
        }
        given = {role: path for role, path in paths.items() if path is not None}
        if len(given) == len(paths):
            step.roles |= given

    def _suits_moments(self, node: Node) -> bool:
        """Whether a GroupNorm is to be computed from moments.

        A norm of what stays in float has no integer neighbours to suit. Nor has one in placement
        cpu, where codes change their layout at a quarter of the cost of floats.
        """
        if self.is_cpu:
            return self.norm_stride > 1
        return node.source in self.paths

    def _drop_inputs_on_a_grid(self) -> None:
        """Take the input quantiser from layers whose input is on a grid of their width already."""
        for name, node in self.flow.layers().items():
            layer = self.component.get_submodule(name)
            if isinstance(layer, QuantLayer) and self.widths.get(node.source) == layer.act_bits:
                layer.input = None


def float_operators(component: nn.Module, flow: Flow) -> dict[str, int]:
    """Count, for the ledger, the operators that put out a tensor that others read in float.

    Returns:
        Operator's kind -> how many there are.
    """
    counts: dict[str, int] = {}
    points = points_of(component)
    steps = [] if points is None else points.steps
    for index, node in enumerate(flow.operators()):
        is_quantised = index < len(steps) and "out" in steps[index].roles
        if is_quantised or node.inside or feeds_output_only(node) or is_rescaled_input(node):
            continue
        if any(wants_codes(n, Placement.FULL) for n in node.consumers):
            counts[node.op] = counts.get(node.op, 0) + 1
    return counts
