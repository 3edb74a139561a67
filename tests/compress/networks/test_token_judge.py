"""Heads of a projected discriminator, against AddSR's."""

import pytest
import torch
import torch.nn.functional as F
from support.golden import Golden

from compress.networks.token_judge import TokenJudge


@torch.no_grad()
@pytest.mark.parametrize("case", ["a", "b"])
def test_logits_are_the_authors(shared, case):
    golden = Golden(shared / "golden", "addsr_training")
    config = golden.facts["config"]["disc"]
    judge = TokenJudge(config["channels"], config["c_dim"], config["hooks"])
    weights = golden.weights("dis.")
    judge.load_state_dict({n: t for n, t in weights.items() if n.startswith("heads.")})
    image = golden[f"inputs.{case}.hr"] / 2 + 0.5
    layers = []  # a stand-in for the vision transformer
    for i in range(config["hooks"]):
        maps = F.conv2d(image, weights[f"proj.{i}.weight"], weights[f"proj.{i}.bias"], stride=8)
        layers.append(maps.flatten(2))
    logits = judge.eval()(layers, golden[f"inputs.{case}.cls_lr"])
    for i, found in enumerate(logits):
        golden.check(found, f"{case}.dis_eval_logits{i}")


def test_every_parameter_learns():
    torch.manual_seed(0)
    judge = TokenJudge(channels=8, condition=3, layers=2)
    tokens = torch.randn(2, 2, 8, 10, requires_grad=True)
    logits = judge(list(tokens), torch.randn(2, 3))
    assert [map_.shape for map_ in logits] == [(2, 10), (2, 10)]
    sum(map_.square().mean() for map_ in logits).backward()
    assert tokens.grad is not None
    assert tokens.grad.abs().sum() > 0
    assert all(p.grad is not None for p in judge.parameters())
