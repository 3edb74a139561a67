"""DFOSD: its arithmetic as documented, counts, folding, sources."""

import copy
import json

import pytest
import torch
from bench.random_weights import randomise
from safetensors.torch import save_file

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.families.dfosd import DFOSDSource
from compress.networks.lora_file import merge_lora_file
from compress.passes.strip import Strip
from compress.process.one_step import OneStep


@pytest.fixture(scope="module")
def cases(shared):
    facts = json.loads((shared / "golden" / "seeds_formulae.json").read_text())
    return {case["name"]: case for case in facts["cases"]}


def test_gains_are_the_documents(cases):
    for timestep, expected in cases["intermediate_timestep"]["outputs"].items():
        process = OneStep(timestep=int(timestep))
        assert process.signal == pytest.approx(expected["signal"], rel=1e-6)
        assert process.factors["latent"] == pytest.approx(expected["gain_on_z"], rel=1e-6)
        assert -process.factors["prediction"] == pytest.approx(expected["gain_on_eps"], rel=1e-6)


def test_one_step_is_the_documents(cases):
    given = cases["generator_and_forward_diffusion"]["inputs"]
    latent, prediction = (torch.tensor(given[name]) for name in ("z_L", "eps"))
    found = OneStep(timestep=given["t"]).restore(latent, lambda _state: prediction)
    expected = cases["generator_and_forward_diffusion"]["outputs"]["z_H"]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_full_size_has_the_published_counts():
    model = DFOSDSource(size="full").build()
    cost = measure(model)
    assert cost.params == 949_643_435
    assert round(cost.macs_paper / 1e7) == 212_033  # 2120.33 G
    assert round(cost.macs_full / 1e8) == 22_177


def test_strip_folds_timestep_and_prompt():
    model = randomise(DFOSDSource().build())
    lr = torch.rand(1, 3, 32, 32)
    folded = copy.deepcopy(model)
    Strip().convert(folded)
    assert folded.denoiser.context is None
    with torch.no_grad():
        assert torch.allclose(folded.network(lr), model.network(lr), atol=1e-4)


def pair(rank: int, alpha: float) -> tuple[dict, torch.Tensor]:
    torch.manual_seed(0)
    down, up = torch.randn(rank, 3), torch.randn(4, rank)
    return {"A": down, "B": up}, alpha / rank * up @ down


@pytest.mark.parametrize("prefix", ["", "unet.", "base_model.model."])
def test_a_lora_file_counts_alpha_by_its_own_rank(tmp_path, prefix):
    base = {"a.weight": torch.zeros(4, 3), "b.weight": torch.zeros(4, 3)}
    (first, of_first), (second, of_second) = pair(16, 16), pair(2, 16)
    state = {}
    for name, sides in (("a", first), ("b", second)):
        state |= {f"{prefix}{name}.lora_{side}.weight": t for side, t in sides.items()}
    save_file(state, tmp_path / "lora.safetensors")
    merged = merge_lora_file(base, str(tmp_path / "lora.safetensors"), 16, "source.lora")
    assert torch.allclose(merged["a.weight"], of_first, atol=1e-6)
    assert torch.allclose(merged["b.weight"], of_second, atol=1e-5)


def test_files_that_are_none_are_sentences(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="holds no pairs of LoRA"):
        merge_lora_file({}, str(tmp_path / "x.safetensors"), 16, "source.lora")
    other = DFOSDSource(unet_channels=(16, 16, 16, 16))
    with pytest.raises(UserError, match=r"dfosd_nano\.safetensors: "):
        other.load(other.build())
    with pytest.raises(UserError, match=r"source\.base: DFOSD needs"):
        DFOSDSource(size="full").load(DFOSDSource(size="full").build())
