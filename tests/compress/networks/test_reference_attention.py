"""The reference-guided LDM's formulae against numbers worked out by hand, and the adapter."""

import json
from typing import Any

import pytest
import torch

from compress.data.retrieval import best_patches, cosine, most_similar
from compress.networks.reference_attention import (
    Memory,
    ReferenceAttention,
    aggregated,
    attend,
    head_width,
)
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
    # The two have other numbers of tokens, so that they do not lie in one tensor.
    pairs = zip(keys, values, strict=True)
    halves = [aggregated(query, k[None, None], v[None, None] / 2, heads)[0] for k, v in pairs]
    mean = halves[0] + halves[1]
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
def memory() -> Memory:
    torch.manual_seed(0)
    return Memory(64, groups=8).eval().requires_grad_(False)


@pytest.fixture
def adapter() -> ReferenceAttention:
    torch.manual_seed(1)
    return ReferenceAttention(64, groups=8).eval().requires_grad_(False)


def kept(memory: Memory, count: int, places: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of `count` references in `places`, for their mean."""
    torch.manual_seed(2)
    keys, values = memory(torch.randn(count, 64, 4, 4))
    rest = torch.zeros(places - count, 16, 64)
    return torch.cat([keys, rest])[None], torch.cat([values / count, rest])[None]


def test_it_begins_by_adding_nothing(adapter, memory):
    x = torch.randn(1, 64, 6, 5)
    found = adapter(x, *kept(memory, 2, 2))
    assert found.shape == x.shape
    assert not found.any()


def test_places_that_hold_no_reference_change_nothing(adapter, memory):
    """A graph of a fixed number of references serves fewer, and none."""
    torch.nn.init.normal_(adapter.out.weight)
    x = torch.randn(2, 64, 6, 5)
    one = adapter(x, *kept(memory, 1, 1))
    assert one.abs().max() > 0.01
    torch.testing.assert_close(adapter(x, *kept(memory, 1, 3)), one)
    assert not adapter(x, *(torch.zeros(1, 3, 16, 64) for _ in range(2))).any()


def test_several_references_give_the_mean(memory):
    query = torch.randn(2, 30, 64)
    keys, values = kept(memory, 3, 4)
    mean = aggregated(query, keys, values, 2)
    single = []
    for key, value in zip(keys[0, :3], 3 * values[0, :3], strict=True):
        single.append(attend(query, key.expand(2, -1, -1), value.expand(2, -1, -1), 2))
    torch.testing.assert_close(mean, sum(single) / 3)


def test_each_image_of_a_batch_has_its_own(memory):
    query = torch.randn(2, 30, 64)
    keys, values = kept(memory, 2, 2)
    both = torch.cat([keys, keys.flip(1)]), torch.cat([values, 0 * values])
    found = aggregated(query, *both, 2)
    torch.testing.assert_close(found[:1], aggregated(query[:1], keys, values, 2))
    assert not found[1].any()


def test_parameters_are_four_projections():
    parts = torch.nn.ModuleList([ReferenceAttention(160), Memory(160)])
    linear = sum(p.numel() for n, p in parts.named_parameters() if "norm" not in n)
    assert linear == 4 * 160**2


def test_heads_are_of_32_channels_where_those_divide():
    assert [head_width(channels) for channels in (160, 640, 80, 144, 12)] == [32, 32, 16, 16, 4]


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
