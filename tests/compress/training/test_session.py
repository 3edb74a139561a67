"""A session: what it trains, what it blends, what its critic gets; and modules that are hidden."""

import pytest
import torch
from torch import nn

from compress.training.acceleration import accelerator
from compress.training.adversarial import HINGE, Judged
from compress.training.hidden import Hidden
from compress.training.loop import Plan
from compress.training.session import Adversary, Learning, Result, Session
from compress.training.terms import image_terms, wants, weighted_sum

BATCHES = [torch.ones(2, 3)] * 2


class Toy(nn.Module):
    """One layer, and a teacher that it does not own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.teacher = Hidden(nn.Linear(3, 3))

    def forward(self, batch):
        return self.layer(batch), self.teacher.module(batch)


def session(**options):
    torch.manual_seed(0)
    stage = Toy()
    learning = Learning(lr=0.1, ema=0.0, **options)
    weights = {"mse": 1.0, "gan": 0.1}
    accelerate = accelerator("fp32", torch.device("cpu"))
    return Session(accelerate, stage, list(stage.parameters()), weights, learning)


def forward(stage, index, batch):
    made, goal = stage(batch)
    return Result({"mse": (made - goal).square().mean()}, Judged(goal.detach(), made))


def test_a_hidden_module_is_no_part():
    toy = Toy()
    assert set(toy.state_dict()) == {"layer.weight", "layer.bias"}
    assert len(list(toy.parameters())) == 2
    assert toy(torch.ones(1, 3))[1].requires_grad  # it works as ever


def test_only_what_is_trained_changes(tmp_path):
    made = session()
    before = [p.detach().clone() for p in made.trained]
    teacher = made.stage.teacher.module.weight.detach().clone()
    log = made.run(Plan("toy", tmp_path, 2, warmup=1), BATCHES, forward)
    assert all(not torch.equal(p, q) for p, q in zip(made.trained, before, strict=True))
    assert torch.equal(made.stage.teacher.module.weight, teacher)
    assert set(log[-1]) == {"step", "seconds", "loss", "mse"}


def test_a_parameter_may_learn_at_another_rate(tmp_path):
    """AdamW's first step is of the size of the learning rate, whatever the gradient."""
    torch.manual_seed(0)
    stage = Toy()
    learning = Learning(lr=0.1, ema=0.0, factors={stage.layer.weight: 0.05})
    accelerate = accelerator("fp32", torch.device("cpu"))
    made = Session(accelerate, stage, list(stage.parameters()), {"mse": 1.0}, learning)
    weight, bias = (p.detach().clone() for p in made.trained)
    log = made.run(Plan("toy", tmp_path, 1, warmup=1), BATCHES[:1], forward)
    slow, fast = (stage.layer.weight - weight).abs(), (stage.layer.bias - bias).abs()
    assert fast.min() > 1e-3
    torch.testing.assert_close(slow / fast[:, None], torch.full((3, 3), 0.05), rtol=1e-3, atol=0)
    assert set(log[-1]) == {"step", "seconds", "loss", "mse"}


@pytest.mark.parametrize("share", [0.5, 1.5])
def test_a_blend_keeps_a_part_or_goes_beyond(share, tmp_path):
    whole = session()
    whole.run(Plan("whole", tmp_path, 2, warmup=1), BATCHES, forward)
    whole.blend()
    blended = session(blend=share)
    start = [p.detach().clone() for p in blended.trained]
    blended.run(Plan("blended", tmp_path, 2, warmup=1), BATCHES, forward)
    blended.blend()
    for parameter, first, last in zip(blended.trained, start, whole.trained, strict=True):
        assert not torch.equal(first, last)
        torch.testing.assert_close(parameter.detach(), first + share * (last.detach() - first))


def test_the_critic_learns_and_shows(tmp_path):
    made = session()
    judge = nn.Linear(3, 1)
    before = judge.weight.detach().clone()
    made.add_critic(list(judge.parameters()), 0.1, judge)
    log = made.run(Plan("toy", tmp_path, 2, warmup=1), BATCHES, forward)
    assert {"gan", "critic"} <= log[-1].keys()
    assert not torch.equal(judge.weight, before)
    assert len(made.critic_parameters) == 2


def test_the_discriminator_learns_before_its_term_counts(tmp_path):
    made = session()
    judge = nn.Linear(3, 1)
    before = judge.weight.detach().clone()
    made.add_critic(list(judge.parameters()), 0.1, judge, Adversary(HINGE, after=2))
    log = made.run(Plan("toy", tmp_path, 2, warmup=1), BATCHES, forward)
    assert log[-1]["loss"] == pytest.approx(log[-1]["mse"])
    assert not torch.equal(judge.weight, before)


def test_a_balanced_term_has_the_gradient_of_the_others(tmp_path):
    made = session()
    judge, weight = nn.Linear(3, 1), made.stage.layer.weight
    seen = Adversary(HINGE, balanced=weight)
    made.add_critic(list(judge.parameters()), 0.1, judge, seen)
    result = forward(made.stage, 0, BATCHES[0])
    terms = dict(result.terms)
    generator = -judge(result.judged.fake).mean()
    counts = made._gan_counts(terms, generator, 0)
    of_others, of_generator = (
        torch.autograd.grad(loss, weight, retain_graph=True)[0].norm()
        for loss in (terms["mse"], counts * generator)
    )
    assert of_generator.item() == pytest.approx(of_others.item(), rel=1e-2)


def test_a_discriminator_needs_something_to_judge(tmp_path):
    made = session()
    judge = nn.Linear(3, 1)
    made.add_critic(list(judge.parameters()), 0.1, judge)

    def blind(stage, index, batch):
        return Result(forward(stage, index, batch).terms, None)

    with pytest.raises(ValueError, match="something real and fake"):
        made.run(Plan("toy", tmp_path, 1), BATCHES, blind)


def test_terms_are_those_that_are_wanted():
    image, target = torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, 3, 8, 8)
    terms = image_terms(image, target, {"mse": 2.0, "l1": 1.0, "frequency": 0.0}, {})
    assert {name: value.item() for name, value in terms.items()} == {"l1": 0.5, "mse": 0.25}
    assert weighted_sum(terms, {"mse": 2.0, "l1": 1.0}).item() == 1.0
    assert not wants({"mse": 0.0}, "mse", "l1")
