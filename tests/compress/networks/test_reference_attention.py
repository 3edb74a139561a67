"""The reference-guided LDM's formulae against numbers worked out by hand, and the adapter."""

import json
from typing import Any

import pytest
import torch

from compress.data.retrieval import best_patches, cosine, most_similar
from compress.networks.reference_attention import ReferenceAttention, aggregated, attend
from compress.process.ldm_chain import ddim_chain, ddim_step, ldm_alphas
from compress.process.linear_steps import PREDICTION, STATE, weighted_sum
from compress.routing.adaptive import AdaptiveSteps

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture(scope="module")
def cases(shared) -> dict[str, Any]:
    facts = json.loads((shared / "golden" / "seeds_formulae.json").read_text())
    return {case["name"]: case for case in facts["cases"]}


def double(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_schedule(cases):
    table = ldm_alphas()
    for timestep, value in cases["ldm_schedule"]["outputs"].items():
        assert table[int(timestep)].item() == pytest.approx(value, rel=1e-9)


def test_step(cases):
    given, wanted = cases["ddim_step"]["inputs"], cases["ddim_step"]["outputs"]
    table = ldm_alphas()
    bars = table[given["t"]].item(), table[given["s"]].item()
    values = {STATE: double(given["x"]), PREDICTION: double(given["eps"])}
    for eta in (0, 1):
        factors, sigma = ddim_step(*bars, eta=eta)
        assert sigma == pytest.approx(wanted[f"sigma eta={eta}"], rel=1e-9, abs=1e-12)
        found = weighted_sum(factors, values) + sigma * double(given["noise"])
        torch.testing.assert_close(found, double(wanted[f"x_s eta={eta}"]), **CLOSE)


def test_attention_to_each_reference_apart(cases):
    given, wanted = cases["reference_attention"]["inputs"], cases["reference_attention"]["outputs"]
    weights = {name: double(given[name]) for name in ("Wq", "Wk", "Wv", "Wo")}
    query = (double(given["lr"]) @ weights["Wq"].T)[None]
    references = [double(reference) for reference in given["refs"]]
    keys = [reference @ weights["Wk"].T for reference in references]
    values = [reference @ weights["Wv"].T for reference in references]
    heads = given["heads"]
    found = []
    for key, value, expected in zip(keys, values, wanted["per_reference"], strict=True):
        found.append(attend(query, key[None], value[None], heads)[0])
        torch.testing.assert_close(found[-1], double(expected), **CLOSE)
    for cached, expected in ((keys, "K"), (values, "V")):
        for one, other in zip(cached, wanted["cached"][expected], strict=True):
            torch.testing.assert_close(one, double(other), **CLOSE)
    mean = (found[0] + found[1]) / 2
    torch.testing.assert_close(mean, double(wanted["mean"]), **CLOSE)
    out = double(given["decoder"]) + mean @ weights["Wo"].T
    torch.testing.assert_close(out, double(wanted["decoder_out"]), **CLOSE)
    wrong = attend(query, torch.cat(keys)[None], torch.cat(values)[None], heads)[0]
    torch.testing.assert_close(wrong, double(wanted["WRONG_one_softmax_over_all"]), **CLOSE)


def test_retrieval(cases):
    case = cases["two_stage_retrieval"]
    given, wanted = case["inputs"], case["outputs"]
    query, bank = double(given["query"]), double(given["bank"])
    torch.testing.assert_close(cosine(query, bank), double(wanted["cosine"]), **CLOSE)
    images = most_similar(query, bank, given["images"])
    assert sorted(images) == wanted["images"]
    patches = [double(rows) if rows else None for rows in given["patches"]]
    found = best_patches(double(given["patch_query"]), patches, images, given["keep"])
    assert [entry[:2] for entry in found] == [tuple(entry[:2]) for entry in wanted["patches"]]
    similar = [entry[2] for entry in wanted["patches"]]
    assert [entry[2] for entry in found] == pytest.approx(similar, rel=1e-9)


def test_ties_go_to_the_lower_index():
    bank = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0]])
    assert most_similar(torch.tensor([1.0, 0.0]), bank, 3) == [1, 2, 0]


@pytest.fixture
def adapter() -> ReferenceAttention:
    torch.manual_seed(0)
    return ReferenceAttention(64, groups=8).eval().requires_grad_(False)


def test_it_begins_by_adding_nothing(adapter):
    x = torch.randn(1, 64, 6, 5)
    keys, values = adapter.stored(torch.randn(2, 64, 4, 4))
    found = adapter(x, keys, values, torch.tensor([0.5, 0.5]))
    assert found.shape == x.shape
    assert not found.any()


def test_places_that_hold_no_reference_change_nothing(adapter):
    """A graph of a fixed number of references serves fewer, and none."""
    torch.nn.init.normal_(adapter.out.weight)
    x = torch.randn(1, 64, 6, 5)
    keys, values = adapter.stored(torch.randn(3, 64, 4, 4))
    one = adapter(x, keys[:1], values[:1], torch.tensor([1.0]))
    filled = adapter(x, keys, values, torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(filled, one)
    assert not adapter(x, keys, values, torch.zeros(3)).any()
    mean = aggregated(x.flatten(2).transpose(1, 2), keys, values, torch.full((3,), 1 / 3), 2)
    single = [
        attend(x.flatten(2).transpose(1, 2), keys[i : i + 1], values[i : i + 1], 2)
        for i in range(3)
    ]
    torch.testing.assert_close(mean, sum(single) / 3)


def test_parameters_are_four_projections():
    network = ReferenceAttention(160)
    linear = sum(p.numel() for n, p in network.named_parameters() if "norm" not in n)
    assert linear == 4 * 160**2


@pytest.mark.parametrize("steps", [1, 4, 50])
def test_the_chain_is_diffusers(steps):
    """Its DDIMScheduler with LDM's betas and an offset of one."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0155,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.set_timesteps(steps)
    chain = ddim_chain(steps)
    assert scheduler.timesteps.tolist() == list(chain.timesteps)
    torch.manual_seed(0)
    noise = torch.randn(1, 3, 5, 4)

    def denoise(state, timesteps=None):
        return (state * 0.7).cos()

    state = noise
    for timestep in scheduler.timesteps:
        state = scheduler.step(denoise(state), timestep, state).prev_sample
    torch.testing.assert_close(chain.restore(noise, denoise), state, rtol=1e-4, atol=1e-4)


def test_its_steps_can_be_left_out():
    chain = ddim_chain(10)
    torch.manual_seed(0)
    noise = torch.randn(1, 3, 5, 4)

    def denoise(state, timesteps):
        return (state * 0.7).cos()

    found = AdaptiveSteps(chain).restore(noise, denoise, torch.zeros(1, 3, 5, 4))
    torch.testing.assert_close(found, chain.restore(noise, denoise), rtol=1e-5, atol=1e-5)
