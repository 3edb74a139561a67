"""Chains of steps against the authors' tables and samplers."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from compress.core.errors import UserError
from compress.networks.noise_maps import NoiseMaps
from compress.process.epsilon_chains import INVSR_TIMESTEPS, inversion, noise, renoised
from compress.process.linear_steps import PREDICTION, STATE, LinearSteps, Row
from compress.process.one_step import OneStep, alphas_cumprod
from compress.process.shift_solver import shares, shift_solver, shift_timesteps
from compress.process.truncated_chains import (
    leading_chain,
    posterior,
    spaced_chain,
    spaced_timesteps,
)


def read(shared, name: str) -> dict:
    return json.loads((shared / "golden" / f"{name}.json").read_text())


def test_a_row_reads_earlier_steps_and_keeps_no_others():
    rows = (Row(2, {STATE: 1.0, PREDICTION: 1.0}), Row(1, {"state_0": 2.0, "prediction_0": 3.0}))
    process = LinearSteps({"latent": 1.0}, rows)
    assert process.remembered == {"state_0", "prediction_0"}
    latent = torch.ones(1, 1, 2, 2)
    found = process.restore(latent, lambda state, timestep: state + timestep.float()[0])
    assert (found == 2 * 1.0 + 3 * 3.0).all()


def test_one_step_of_every_chain_is_the_closed_form():
    for made in (renoised([999]), leading_chain(1)):
        expected = OneStep(timestep=999).factors
        assert math.isclose(made.rows[0].factors[STATE], expected["latent"], rel_tol=1e-12)
        assert math.isclose(made.rows[0].factors[PREDICTION], expected["prediction"], rel_tol=1e-12)


@pytest.mark.parametrize("steps", INVSR_TIMESTEPS)
def test_inversion_is_the_authors(shared, steps):
    expected = read(shared, "invsr_schedule")["steps"][str(steps)]
    assert list(INVSR_TIMESTEPS[steps]) == expected["listed"]
    for dtype, rel in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        process = inversion(INVSR_TIMESTEPS[steps], alphas_cumprod(dtype=dtype))
        sigmas = expected["sigmas_float64" if dtype == torch.float64 else "sigmas_float32"]
        assert [row.timestep for row in process.rows] == expected["timesteps"]
        signals = [1 / math.sqrt(sigma**2 + 1) for sigma in sigmas]
        assert math.isclose(process.start["latent"], signals[0], rel_tol=rel)
        assert math.isclose(process.start["start_noise"], signals[0] * sigmas[0], rel_tol=rel)
        for step, row in enumerate(process.rows):
            gained = signals[step + 1] * (sigmas[step + 1] - sigmas[step])
            assert math.isclose(row.factors[PREDICTION], gained, rel_tol=4 * rel)
            assert math.isclose(row.factors[STATE], signals[step + 1] / signals[step], rel_tol=rel)


def test_inversion_by_one_step_is_its_closed_form():
    # z0 = z_lq + sigma (n - eps)
    factors = inversion([200], alphas_cumprod(dtype=torch.float64)).factors
    sigma = 0.5692848883499537
    assert math.isclose(factors["latent"], 1.0, rel_tol=1e-12)
    assert math.isclose(factors["start_noise"], sigma, rel_tol=1e-12)
    assert math.isclose(factors[PREDICTION], -sigma, rel_tol=1e-12)


def spaced(name: str) -> tuple[int, float, float]:
    steps, t_max, t_min = name.split("/")
    return int(steps), float(t_max), float(t_min)


@pytest.mark.parametrize("name", ["45/0.6667/0.3333", "15/0.6667/0.3333", "6/0.6667/0.3333"])
def test_spaced_chain_is_the_authors(shared, name):
    expected = read(shared, "ccsr_schedule")["v1"][name]
    steps, t_max, t_min = spaced(name)
    process = spaced_chain(steps, t_max, t_min)
    assert list(spaced_timesteps(steps)) == expected["timesteps"]
    assert [row.timestep for row in process.rows[1:]] == expected["loop_timesteps"]
    assert process.steps == expected["evaluations"]
    bars = expected["abar"]
    assert process.rows[0].factors[noise(1)] == pytest.approx(
        math.sqrt(1 - bars[expected["tau_index"]]), rel=1e-10
    )
    for index in range(1, steps):
        found = posterior(bars[index], bars[index - 1])
        for key, value in (
            ("posterior_mean_coef1", found.of_clean),
            ("posterior_mean_coef2", found.of_state),
            ("posterior_variance", found.variance),
        ):
            assert math.isclose(value, expected[key][index], rel_tol=1e-10), (key, index)
    for draw, (row, index) in enumerate(
        zip(process.rows[1:-1], expected["loop_indices"], strict=False), start=2
    ):
        assert row.factors[noise(draw)] == pytest.approx(
            math.sqrt(expected["posterior_variance"][index]), rel=1e-9
        )
    assert set(process.rows[-1].factors) == {STATE, PREDICTION}


@pytest.mark.parametrize(
    "name", ["1/0.6667/0.0", "2/0.6667/0.0", "3/0.6667/0.3333", "4/0.6667/0.0", "6/0.6667/0.5"]
)
def test_leading_chain_is_the_authors(shared, name):
    expected = read(shared, "ccsr_schedule")["v2"][name]
    process = leading_chain(*spaced(name))
    assert [row.timestep for row in process.rows] == [999, *(x["t"] for x in expected["loop"])]
    assert process.steps == expected["unet_calls"]
    for row, entry in zip(process.rows[1:], expected["loop"], strict=True):
        bar = entry["abar"]
        kept = row.factors[PREDICTION] / -(math.sqrt(1 - bar) / math.sqrt(bar))
        is_last = entry is expected["loop"][-1]
        wanted = 1.0 if is_last else entry["coef_x0"]
        # The authors' table of v2 is float32, the golden's coefficients are float64.
        assert math.isclose(kept, wanted, rel_tol=2e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 10])
def test_shift_solver_has_the_authors_coefficients(shared, steps):
    facts = read(shared, "dossr_schedule")
    expected = facts[f"steps{steps}"]
    assert list(shift_timesteps(steps))[::-1] == expected["timesteps"]
    assert shares()[:500].tolist() == pytest.approx(facts["eta_full"], rel=1e-12)
    process = shift_solver(steps, order=1)
    for step, (row, entry) in enumerate(zip(process.rows, expected["coefficients"], strict=True)):
        bar = expected["alpha_bar"][steps - step]
        of_clean = -row.factors[PREDICTION] * math.sqrt(bar) / math.sqrt(1 - bar)
        assert row.factors["latent"] == pytest.approx(entry["x_lr"], rel=1e-9)
        assert row.factors[noise(step + 1)] == pytest.approx(entry["noise"], rel=1e-9)
        assert of_clean == pytest.approx(entry["x0"], rel=1e-9)
        of_state = row.factors[STATE] - of_clean / math.sqrt(bar)
        assert of_state == pytest.approx(entry["x"], rel=1e-9, abs=1e-15)


def test_shift_solver_makes_the_authors_states(shared):
    facts = read(shared, "dossr_sampler")
    tensors = load_file(shared / "golden" / "dossr_sampler.safetensors")
    x_lr = tensors["inputs.x_lr"]

    for case in facts["cases"]:
        process = shift_solver(case["steps"], case["order"])
        given = [tensors[f"inputs.noise{draw}"] for draw in range(case["steps"] + 1)]
        seen = []

        def predict(state, timestep=None, seen=seen):
            t = 499.0 if timestep is None else float(timestep[0])
            seen.append(state)
            wave = 0.3 * math.sin(0.01 * t)
            return 0.7 * state - 0.2 * state.flip(-1) + wave + 0.1 * x_lr

        last = process.restore(x_lr, predict, *given)
        tag = case["tag"]
        states = [tensors[f"outputs.{tag}.x{step}"] for step in range(case["steps"])]
        for found, wanted in zip(
            [*seen, last], [*states, tensors[f"outputs.{tag}.final"]], strict=True
        ):
            assert (found - wanted).abs().max() <= facts["tolerance"]["max_abs"], tag
            assert (found - wanted).norm() / wanted.norm() <= facts["tolerance"]["rel_l2"], tag


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: inversion([]), "there are none"),
        (lambda: inversion([100, 200]), "100, 200 do not descend"),
        (lambda: inversion([0]), "outside"),
        (lambda: inversion([1001]), "outside"),
        (lambda: renoised([999], start="hr"), "choose lr or noise"),
        (lambda: spaced_chain(1), "at least 2"),
        (lambda: spaced_chain(45, 0.6667, 0.0), "no step after the jump"),
        (lambda: spaced_chain(45, 0.3, 0.6), "no step after the jump"),
        (lambda: leading_chain(6, 0.6667, 0.01), "no step after the jump"),
        (lambda: leading_chain(0), "out of range"),
        (lambda: shift_solver(0), "out of range"),
        (lambda: shift_solver(5, 4), "choose 1, 2 or 3"),
    ],
)
def test_what_makes_no_chain_is_a_sentence(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_noise_is_one_map_a_draw_and_repeats_itself():
    maps = NoiseMaps(2, channels=3, period=8, seed=1)
    maps.reset_parameters()
    first, second = maps(torch.zeros(2, 5, 40, 24))
    assert first.shape == second.shape == (2, 3, 20, 12)
    assert torch.equal(first[..., 8:16, :4], first[..., :8, 8:])
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
    assert NoiseMaps(1)(torch.zeros(1, 4, 16, 16)).shape == (1, 4, 8, 8)
