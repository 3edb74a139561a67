"""strip on models of several networks and several steps: exact, and no family is named."""

import copy

import pytest
import torch
from bench.random_weights import randomise
from torch import nn

from compress.families import FAMILIES
from compress.folding.conditions import KnownEmbedding, StepBiases, StepNumber
from compress.model.sr_model import SRModel
from compress.passes.strip import Strip

# One step of two families, and several of each that has them.
CHAINS = [
    ("dfosd", {}),
    ("invsr", {"steps": 3}),
    ("ccsr", {}),
    ("ccsr", {"version": 1, "steps": 6}),
    ("addsr", {"steps": 2}),
    ("dossr", {"steps": 3}),
    *(
        pytest.param(family, options, marks=pytest.mark.exhaustive)
        for family, options in (
            ("invsr", {"steps": 1}),
            ("ccsr", {"steps": 6, "t_min": 0.5}),
            ("addsr", {"steps": 1}),
            ("dossr", {"steps": 1}),
        )
    ),
]


def built(family: str, options: dict) -> SRModel:
    model = randomise(FAMILIES[family](**options).build())
    for module in model.modules():
        if hasattr(module, "relative_position_index"):  # randomise has emptied it
            index = module._create_relative_position_index()
            module.relative_position_index = index.view(-1)
        if hasattr(module, "maps"):
            module.reset_parameters()
    return model.eval()


def has(model: nn.Module, kind: type) -> bool:
    return any(isinstance(module, kind) for module in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize(("family", "options"), CHAINS)
@torch.no_grad()
def test_folding_changes_nothing(family, options):
    model = built(family, options)
    lr = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = model.network(lr)
    folded = copy.deepcopy(model)
    Strip().convert(folded)
    parameters = sum(p.numel() for p in folded.parameters())
    assert parameters < sum(p.numel() for p in model.parameters())
    after = folded.network(lr)
    assert (after - before).abs().max() <= 1e-4 * before.abs().max()
    several = model.process.steps > 1
    assert has(folded, StepBiases) == several
    assert has(folded, StepNumber) == several
    assert folded.denoiser.context is None
    again = copy.deepcopy(folded)
    Strip().convert(again)
    assert again.state_dict().keys() == folded.state_dict().keys()


def test_step_biases_are_chosen_by_the_timestep():
    number = StepNumber([999, 499])(torch.tensor([499, 999, 1]))
    assert number.tolist() == [[0, 1], [1, 0], [0, 0]]
    biases = StepBiases(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert biases(KnownEmbedding()(number[:2])).tolist() == [[3, 4], [1, 2]]
