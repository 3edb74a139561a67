"""Ladders: a walk through all places is the chain itself, and a skip is the shorter chain's."""

import pytest
import torch

from compress.process.epsilon_chains import inversion, renoised
from compress.process.linear_steps import LinearSteps
from compress.process.residual_sampler import ResidualSampler
from compress.process.residual_shift import ResidualShift
from compress.process.shift_solver import shift_solver
from compress.process.truncated_chains import leading_chain, spaced_chain
from compress.routing.adaptive import AdaptiveSteps

CHAINS = {
    "addsr": renoised((999, 749, 499, 249)),
    "ccsr 1": spaced_chain(15),
    "ccsr 2": leading_chain(6, 0.6667, 0.0),
    "ccsr 2, two steps": leading_chain(6, 0.6667, 0.5),
    "invsr": inversion((200, 150, 100, 50)),
    "dossr 1": shift_solver(5, 1),
    "dossr 3": shift_solver(5, 3),
}


def denoise(state: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """Some function of both, of the state's size."""
    return (0.7 * state + timesteps.view(-1, 1, 1, 1) / 1000).sin()


def values(process) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, 4, 6, 6) for _ in process.inputs]


def given(process, found: list[torch.Tensor]) -> list[torch.Tensor]:
    """The values of an adaptive process, which may read the latent besides."""
    return [*found, *[torch.zeros(1, 4, 6, 6)] * (len(process.inputs) - len(found))]


@pytest.mark.parametrize("name", CHAINS)
def test_all_places_are_the_chain(name):
    chain = CHAINS[name]
    found = values(chain)
    process = AdaptiveSteps(chain)
    result = process.restore(*_split(given(process, found)))
    torch.testing.assert_close(result, chain.restore(*_split(found)), rtol=1e-5, atol=1e-5)
    assert process.walks == [tuple(range(chain.steps))]
    assert process.steps == chain.steps


def _split(found: list[torch.Tensor]) -> tuple:
    first, *more = found
    return first, denoise, *more


def test_a_skip_of_the_multistep_solver_is_the_shorter_solvers():
    """Of ten steps every second: the places of five, so the same coefficients."""
    long, short = shift_solver(10, 3), shift_solver(5, 3)
    for end in range(1, 6):
        path = tuple(range(end + 1))
        doubled = tuple(2 * place for place in path)
        factors = dict(long.ladder.onward(doubled))
        factors[f"noise_{end}"] = factors.pop(f"noise_{2 * end}")
        for name, value in short.ladder.onward(path).items():
            assert factors[name] == pytest.approx(value, rel=1e-9, abs=1e-12), (end, name)


@pytest.mark.parametrize("sampler", ["deterministic", "stochastic"])
@pytest.mark.parametrize("schedule", [ResidualShift.v1(), ResidualShift.v3()])
def test_residual_shift(sampler, schedule):
    chain = ResidualSampler(schedule, sampler)
    chain.reset_parameters()
    torch.manual_seed(0)
    latent = torch.randn(1, 6, 9, 7)

    def predict(pair: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return denoise(pair[:, :3], timesteps) + pair[:, 3:]

    found = AdaptiveSteps(chain).restore(latent, predict)
    torch.testing.assert_close(found, chain.restore(latent, predict), rtol=1e-5, atol=1e-5)


def test_a_skip_of_residual_shift_keeps_mean_and_variance():
    """Two single steps and one of two have the same distribution where x0 is known."""
    ladder = ResidualSampler(ResidualShift.v1(), "stochastic").ladder
    one = ladder.onward((3, 4)), ladder.onward((4, 5))
    two = ladder.onward((3, 5))
    state = one[0]["state"] * one[1]["state"]
    clean = one[0]["prediction"] * one[1]["state"] + one[1]["prediction"]
    variance = (one[0]["noise_4"] * one[1]["state"]) ** 2 + one[1]["noise_5"] ** 2
    assert two["state"] == pytest.approx(state)
    assert two["prediction"] == pytest.approx(clean)
    assert two["noise_5"] ** 2 == pytest.approx(variance)


def test_fewer_calls_visit_fewer_places():
    process = AdaptiveSteps(CHAINS["ccsr 1"], calls=3)
    found = values(CHAINS["ccsr 1"])
    process.restore(*_split(given(process, found)))
    assert process.steps == 3
    assert process.walks == [(0, 2, 4)]


def test_a_chain_without_a_ladder():
    with pytest.raises(ValueError, match="has no ladder of several steps"):
        AdaptiveSteps(leading_chain(1))
    rows = CHAINS["addsr"].rows
    with pytest.raises(ValueError, match="has no ladder"):
        AdaptiveSteps(LinearSteps(CHAINS["addsr"].start, rows, CHAINS["addsr"].inputs))
