"""AdaDiffSR's formulae against numbers worked out by hand."""

import json
from typing import Any

import pytest
import torch

from compress.process.codebook import clean, skip
from compress.process.linear_steps import PREDICTION, STATE, weighted_sum
from compress.process.one_step import alphas_cumprod
from compress.process.tiling import Cut, gaussian_weights, joined, tiled_rows
from compress.process.walks import Rules, Walk
from compress.routing.information import Information, Term, gain, part_gains, percentiles
from compress.routing.step_networks import Injection, StepRegressor, modulated, with_gains

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture(scope="module")
def cases(shared) -> dict[str, Any]:
    facts = json.loads((shared / "golden" / "seeds_formulae.json").read_text())
    return {case["name"]: case for case in facts["cases"]}


def double(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_information_gain(cases):
    case = cases["mmle_gain"]
    given, wanted = case["inputs"], case["outputs"]
    terms = {}
    for name, (low, high, higher) in given["range"].items():
        terms[name] = Term(given["weights"][name], low, high, higher, name in given["fr"])
    information = Information(terms)
    values = {name: double([row[name] for row in given["values"]]) for name in terms}
    normalised = information.normalised(values)
    for name in terms:
        expected = double([row[name] for row in wanted["M"]])
        torch.testing.assert_close(normalised[name], expected, **CLOSE)
    fr, nr = information.quality(values, True), information.quality(values, False)
    torch.testing.assert_close(fr, double(wanted["R_fr"]), **CLOSE)
    torch.testing.assert_close(nr, double(wanted["R_nr"]), **CLOSE)
    torch.testing.assert_close(fr + nr, double(wanted["R"]), **CLOSE)
    for quality, key in ((fr, "I_fr"), (nr, "I_nr"), (fr + nr, "I_whole")):
        torch.testing.assert_close(gain(quality[1:], quality[:-1]), double(wanted[key]), **CLOSE)
    differences = torch.stack([normalised[name].diff() for name in terms], dim=1)
    by_regressor = part_gains(differences, information.weights())
    torch.testing.assert_close(by_regressor[:, 0], double(wanted["I_fr"]), **CLOSE)
    torch.testing.assert_close(by_regressor[:, 1], double(wanted["I_nr"]), **CLOSE)


def test_small_gains(cases):
    case = cases["tanh_small_gains"]
    differences = double(case["inputs"]["differences"])
    found = gain(differences, torch.zeros_like(differences))
    torch.testing.assert_close(found, double(case["outputs"]["I"]), **CLOSE)


def test_the_table_of_intervals(cases):
    case = cases["dtss_table"]
    rules = Rules(tuple(case["inputs"]["intervals"]), case["inputs"]["tau"])
    for row in case["outputs"]["table"]:
        found = rules.interval(row["I_fr"], row["I_nr"])
        assert ("exit" if found is None else found) == row["interval"], row


def gains_at(timestep: int, table: list[dict[str, float]]) -> tuple[float, float]:
    for row in table:
        if timestep >= row["t_at_least"]:
            return row["I_fr"], row["I_nr"]
    raise ValueError(timestep)


def test_a_whole_walk(cases):
    case = cases["dtss_walk"]
    given, wanted = case["inputs"], case["outputs"]
    total = given["total"]
    walk = Walk(Rules(tuple(given["intervals"]), given["tau"], given["first_interval"]), total)
    following = walk.first()
    while following is not None and following < total:
        walk.go(following)
        following = walk.onward(*gains_at(total - 1 - following, given["gain_at_timestep"]))
    assert [total - 1 - place for place in walk.path] == [row["from"] for row in wanted["log"]]
    assert len(walk.path) == wanted["calls"]
    assert walk.left is wanted["exited"]
    assert walk.best == pytest.approx(wanted["best_cumulative_nr"], rel=1e-9)


@pytest.mark.parametrize("number", range(3))
def test_skips(cases, number):
    case = cases[f"skip_codebook_{number}"]
    given, wanted = case["inputs"], case["outputs"]
    step = skip(alphas_cumprod(dtype=torch.float64), given["t"], given["k"])
    book = wanted["codebook"]
    assert step.s == book["s"]
    found = (step.alpha_bar_t, step.alpha_bar_s, 1 - step.beta, step.beta, *step.ddim, *step.ddpm)
    names = ("abar_t", "abar_s", "alpha_t_given_s", "beta_t_given_s")
    expected = [book[name] for name in names] + [*book["ddim"].values(), *book["ddpm"].values()]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    x, eps, noise = (double(given[name]) for name in ("x_t", "eps", "noise"))
    x0 = weighted_sum(clean(step.alpha_bar_t), {STATE: x, PREDICTION: eps})
    torch.testing.assert_close(x0, double(wanted["x0"]), **CLOSE)
    ddim = step.ddim[0] * x0 + step.ddim[1] * eps
    torch.testing.assert_close(ddim, double(wanted["ddim"]), **CLOSE)
    of_clean, of_state, variance = step.ddpm
    ddpm = of_clean * x0 + of_state * x + variance**0.5 * noise
    torch.testing.assert_close(ddpm, double(wanted["ddpm"]), **CLOSE)


def test_modulation(cases):
    case = cases["pfj_modulation"]
    given, wanted = case["inputs"], case["outputs"]
    o, alpha, beta = (double([given[name]]) for name in ("o", "alpha", "beta"))
    torch.testing.assert_close(modulated(o, alpha, beta)[0], double(wanted["o_hat"]), **CLOSE)
    fr, nr = (double([value]) for value in given["gains"])
    torch.testing.assert_close(with_gains(o, fr, nr)[0], double(wanted["phi_input"]), **CLOSE)


def test_weights_of_a_tile(cases):
    case = cases["gaussian_weights"]
    found = gaussian_weights(case["inputs"]["height"], case["inputs"]["width"])
    torch.testing.assert_close(found, double(case["outputs"]["weights"]), **CLOSE)


def test_tiles_are_blended_once(cases):
    case = cases["latent_blend"]
    given = case["inputs"]
    tiles = [double(tile["values"])[None, None] for tile in given["tiles"]]
    queue = iter(tiles)
    whole = torch.zeros(1, 1, given["height"], given["width"], dtype=torch.float64)
    strips = tiled_rows(lambda _piece: next(queue), whole, Cut(tile=4, overlap=2))
    found = joined(strips, given["height"])[0, 0]
    torch.testing.assert_close(found, double(case["outputs"]["latent"]), **CLOSE)


def test_the_regressor_has_the_papers_size():
    """2.19M by the paper's totals, 115.79 - 113.60."""
    network = StepRegressor(channels=4, metrics=6)
    assert sum(p.numel() for p in network.parameters()) == 2_182_598
    f = torch.randn(2, 4, 16, 24)
    assert network(f, f, f, torch.tensor([999, 3])).shape == (2, 6)


def test_injection_begins_by_changing_nothing():
    o = torch.randn(2, 4, 8, 8)
    network = Injection(channels=4, width=8)
    found = network(o, torch.tensor([0.1, -0.2]), torch.zeros(2))
    torch.testing.assert_close(found, o)


def test_percentiles_bound_a_metric():
    low, high = percentiles([float(i) for i in range(101)])
    assert (low, high) == pytest.approx((1.0, 99.0))
    with pytest.raises(ValueError, match="the same everywhere"):
        percentiles([1.0, 1.0])
