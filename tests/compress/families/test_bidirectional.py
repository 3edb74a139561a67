"""Bidirectional conditioning.

The identities of the forward process by hand, its switches, noise, tiles, schedule.
"""

import math

import pytest
import torch

from compress.core.errors import UserError
from compress.process.bidirectional import PERIOD, STEPS, Bidirectional


def process(**options) -> Bidirectional:
    made = Bidirectional(**options)
    made.reset_parameters()
    return made


def encoded(mean: float, sigma: float, side: int = 2) -> torch.Tensor:
    """[mu_L, log sigma_L^2] of four channels, the same everywhere."""
    half = torch.full((1, 4, side, side), mean)
    return torch.cat([half, torch.full_like(half, 2 * math.log(sigma))], dim=1)


def test_states_worked_by_hand():
    found = process()
    latent, clean, noise = (
        encoded(0.5, 0.2),
        torch.full((1, 4, 2, 2), 3.0),
        torch.full((1, 4, 2, 2), -2.0),
    )
    torch.testing.assert_close(
        found.terminal(latent, noise), torch.full((1, 4, 2, 2), 0.5 + 0.2 * -2)
    )
    # t = 499 is half the way: cos and sin of 45 degrees.
    half = found.diffuse(clean, latent, torch.tensor([499]), noise)
    torch.testing.assert_close(half, torch.full((1, 4, 2, 2), math.sqrt(0.5) * (3 + 0.1)))
    # t = 332 is 333/1000 of a right angle.
    angle = math.pi / 2 * 0.333
    torch.testing.assert_close(
        found.diffuse(clean, latent, torch.tensor([332]), noise),
        torch.full((1, 4, 2, 2), 3 * math.cos(angle) + 0.1 * math.sin(angle)),
    )


def test_last_step_is_the_terminal_state_and_knows_no_hr():
    found, latent, noise = process(), encoded(0.5, 0.2), torch.randn(1, 4, 2, 2)
    last = torch.tensor([found.timestep])
    for clean in (torch.zeros(1, 4, 2, 2), torch.full((1, 4, 2, 2), 1e6)):
        assert torch.equal(found.diffuse(clean, latent, last, noise), found.terminal(latent, noise))


def test_schedule():
    signal, rest = process().rates(torch.arange(STEPS))
    assert signal.shape == rest.shape == (STEPS, 1, 1, 1)
    assert (signal.diff(dim=0) < 0).all()
    assert signal[-1] == 0
    assert rest[-1] == 1
    assert signal[0] > 0.99999
    torch.testing.assert_close(signal**2 + rest**2, torch.ones_like(signal))


@pytest.mark.parametrize(
    ("mean", "variance", "expected"),
    [
        (True, True, 0.5 + 0.2 * 3),
        (True, False, 0.5 + 3),
        (False, True, 0.2 * 3),
        (False, False, 3.0),
    ],
)
def test_each_part_can_be_switched_off(mean, variance, expected):
    found, latent = process(mean=mean, variance=variance), encoded(0.5, 0.2)
    noise = torch.full((1, 4, 2, 2), 3.0)
    torch.testing.assert_close(found.terminal(latent, noise), torch.full((1, 4, 2, 2), expected))
    # The reverse direction sees mu_L whatever the forward one does.
    pair = found.pair(noise, latent)
    assert pair.shape == (1, 8, 2, 2)
    assert torch.equal(pair[:, 4:], latent[:, :4])


@pytest.mark.parametrize(("sigma", "clamped"), [(1e-6, 0.1), (0.1, 0.1), (0.5, 0.5), (7.0, 1.0)])
def test_sigma_is_clamped(sigma, clamped):
    _, found = process(sigma_min=0.1).moments(encoded(0.0, sigma))
    torch.testing.assert_close(found, torch.full((1, 4, 2, 2), clamped))


@pytest.mark.parametrize("sigma_min", [0, -0.1, 1.5])
def test_sigma_min_out_of_range(sigma_min):
    with pytest.raises(UserError, match=r"sigma_min .* is out of range; choose"):
        Bidirectional(sigma_min=sigma_min)


def test_restore_calls_the_network_once_on_the_terminal_pair():
    found, latent, seen = process(), torch.randn(2, 8, 20, 36), []

    def predict(pair):
        seen.append(pair)
        return pair[:, :4] * 2

    result = found.restore(latent, predict)
    assert len(seen) == found.steps == 1
    state = found.terminal(latent, found.draw(latent))
    assert torch.equal(seen[0], torch.cat([state, latent[:, :4]], dim=1))
    assert torch.equal(result, state * 2)


def test_noise_is_fixed_and_agrees_between_tiles():
    found = process()
    noise = found.draw(torch.empty(1, 8, 64, 112))
    assert noise.shape == (1, 4, 64, 112)
    assert torch.equal(noise, process().draw(torch.empty(1, 8, 64, 112)))
    # Tiles of 128 px at a stride of 96, each a run of its own: 48 latent pixels apart.
    assert 48 % PERIOD == 0
    assert torch.equal(noise[..., 48:], found.draw(torch.empty(1, 8, 64, 64)))
    assert noise.std().item() == pytest.approx(1, abs=0.05)
    assert abs(noise.mean().item()) < 0.05
