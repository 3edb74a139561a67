"""Networks without what does not depend on their inputs."""

import torch
from support.tiny_families import tiny_family
from torch import nn

from export.graphs.components import build, example
from export.targets.folded_constants import Folded, with_constants_folded

NORMS = (torch.ops.aten.layer_norm.default, torch.ops.aten.native_layer_norm.default)


def norms(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    graph = torch.export.export(module, inputs).graph
    return sum(node.target in NORMS for node in graph.nodes)


@torch.no_grad()
def test_layers_of_a_fixed_text_are_computed():
    model = tiny_family("tsdsr", autoencoder=False)
    network = build(model, "denoiser")
    inputs = tuple(torch.randn_like(x) for x in example(model, "denoiser", (32, 32)))
    folded = with_constants_folded(network, inputs)
    assert isinstance(folded, Folded)
    assert norms(folded, inputs) < norms(network, inputs)
    assert all(value.is_contiguous() for value in folded.parameters())
    torch.testing.assert_close(folded(*inputs), network(*inputs), rtol=0, atol=0)


@torch.no_grad()
def test_a_network_of_layers_alone_stays_itself():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    assert with_constants_folded(network, (torch.rand(1, 3, 8, 8),)) is network


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(4.0))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self.table.sqrt() + 1
        return x * rows, x - rows


@torch.no_grad()
def test_several_outputs_stay_several():
    network, x = Pair().eval(), torch.rand(2, 4)
    folded = with_constants_folded(network, (x,))
    assert isinstance(folded, Folded)
    for found, wanted in zip(folded(x), network(x), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
