"""A network without what does not depend on its inputs, such as the first layers of a fixed text.

LiteRT's converter leaves that in the file, and its delegate for GPUs takes no norm of a constant.
"""

import warnings
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.const_fold import FoldedGraphModule, split_const_subgraphs


class Folded(nn.Module):
    """The rest of a network, which reads what was computed of it.

    Args:
        rest: With its constants computed.
        count: How many tensors it puts out.
    """

    def __init__(self, rest: nn.Module, count: int):
        super().__init__()
        self.rest = rest
        self.count = count

    def forward(self, *inputs: torch.Tensor) -> Any:
        """What the network makes of its inputs: one tensor, or a tuple of several."""
        outputs: tuple[torch.Tensor, ...] = self.rest(*inputs)
        return outputs[0] if self.count == 1 else outputs


@torch.no_grad()
def with_constants_folded(module: nn.Module, example: tuple[torch.Tensor, ...]) -> nn.Module:
    """A network that computes the same, traced, with its constants computed.

    Args:
        module: In evaluation mode.
        example: Its inputs, in the sizes that it is exported for.

    Returns:
        The module itself where nothing in it is constant but stored values.
    """
    traced = torch.export.export(module, example).module(check_guards=False)
    outputs = module(*example)
    with warnings.catch_warnings():
        # It names results before it has them, and misses modules that hold nothing.
        warnings.filterwarnings("ignore", "Attempted to insert a get_attr Node", UserWarning)
        warnings.filterwarnings("ignore", "Failed to fetch module", UserWarning)
        graph = split_const_subgraphs(traced)
    if not isinstance(graph, FoldedGraphModule) or graph.const_subgraph_module is None:
        return module
    graph.run_folding()
    graph.const_subgraph_module = None
    for part in graph.modules():
        for name, value in part.named_parameters(recurse=False):
            # litert-torch 0.10 writes the values of a transposed tensor in the wrong order.
            setattr(part, name, nn.Parameter(value.detach().contiguous(), requires_grad=False))
    return Folded(graph, 1 if isinstance(outputs, torch.Tensor) else len(outputs)).eval()
