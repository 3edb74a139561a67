"""strip on the two prompts of guidance: two sets of keys and values, of which each call chooses."""

import copy
from typing import Literal

import pytest
import torch
from support.guided_family import guided_family
from torch import nn

from compress.cost.count import measure, meta_copy
from compress.data.config import Calibration
from compress.families import FAMILIES
from compress.model.passes import FitContext
from compress.model.source import Source
from compress.model.sr_model import SRModel
from compress.networks.latent_diffusion import ConstantProjection, ConstantPrompts, PromptEncoder
from compress.passes.one_step import OneStep
from compress.passes.prune import Prune
from compress.passes.quantize import Quantize
from compress.passes.strip import Strip
from compress.recipe.checkpoint import load_model, save_model
from compress.recipe.export_options import ExportOptions
from export.parity.rows import failures
from export.targets.export_folder import export


class GuidedSource(Source):
    family: Literal["guided"] = "guided"

    def build(self) -> SRModel:
        return meta_copy(guided_family("invsr"))

    def load(self, model: SRModel) -> None:
        model.load_state_dict(guided_family("invsr").state_dict(), assign=True)

    def data_key(self) -> str:
        return ""


SMALL = Calibration(images=2, size=16)
GUIDED = [("invsr", 2, 0), ("ccsr", 2, 1)]


def image() -> torch.Tensor:
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def difference(one: SRModel, other: SRModel) -> float:
    """The largest, by the largest value."""
    expected = one.network(image())
    return ((other.network(image()) - expected).abs().max() / expected.abs().max()).item()


def constants_of(model: nn.Module) -> list[torch.Tensor]:
    return [m.value for m in model.modules() if isinstance(m, ConstantProjection)]


def stripped(model: SRModel, **keys) -> SRModel:
    found = copy.deepcopy(model)
    Strip(**keys).convert(found)
    return found


@pytest.mark.parametrize(("family", "steps", "first"), GUIDED)
@pytest.mark.parametrize("text", ["constant", "embedding"])
def test_stripped_equals_its_source(family, steps, first, text):
    model = guided_family(family, steps, first)
    folded = stripped(model, text=text)
    assert difference(model, folded) <= 1e-5
    assert not any(isinstance(m, PromptEncoder) for m in folded.modules())
    constants = constants_of(folded)
    assert bool(constants) == (text == "constant")
    assert all(len(value) == 2 for value in constants)


def test_both_prompts_count():
    model = guided_family("invsr")
    folded = stripped(model)
    for prompt in (0, 1):
        other = copy.deepcopy(folded)
        for value in constants_of(other):
            value[prompt] += 0.1
        assert difference(folded, other) > 1e-4


def test_rows_of_a_batch_choose_for_themselves():
    value = torch.randn(2, 3, 4)
    chosen = ConstantProjection(value)(torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]]))
    assert torch.equal(chosen, value[[1, 0]])


def test_same_structure_on_meta_and_round_trip():
    model = guided_family("ccsr", 2, 1)
    built = meta_copy(model)
    folded = stripped(model)
    Strip().convert(built)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (built, folded)]
    assert shapes[0] == shapes[1]
    assert all(p.is_meta for p in built.parameters())
    built.load_state_dict({k: v.clone() for k, v in folded.state_dict().items()}, assign=True)
    assert difference(folded, built) == 0


@pytest.mark.parametrize("first", ["constant", "embedding"])
def test_a_second_strip_changes_nothing_more(first):
    once = stripped(guided_family("invsr"), text=first)
    twice = stripped(stripped(once))
    assert difference(once, twice) <= 1e-5
    assert all(len(value) == 2 for value in constants_of(twice))


@pytest.mark.parametrize("again", [False, True])
def test_one_step_after_it_keeps_the_positive_prompt(again):
    model = guided_family("invsr")
    folded = stripped(model)
    for one in (model, folded):
        OneStep().convert(one)
    if again:
        Strip().convert(folded)
        assert folded.text_encoder is None
        assert all(len(value) == 1 for value in constants_of(folded))
    assert difference(model, folded) <= 1e-5


def test_channels_can_be_cut():
    folded = stripped(guided_family("invsr"))
    before = [value.shape for value in constants_of(folded)]
    Prune(components=("denoiser",), ratio=0.5).convert(folded)
    after = [value.shape for value in constants_of(folded)]
    assert all(b[:2] == a[:2] and a[2] < b[2] for b, a in zip(before, after, strict=True))
    assert folded.network(image()).isfinite().all()


def test_it_is_counted_at_full_size():
    model = FAMILIES["invsr"](size="full", guidance=2.0).build()
    before = measure(model).component("denoiser")
    Strip().convert(model)
    assert isinstance(model.text_encoder, ConstantPrompts)
    constants = constants_of(model)
    # SD 2.1's 16 layers of cross-attention, keys and values of 77 tokens, for two prompts.
    assert (len(constants), sum(v.numel() for v in constants)) == (32, 2 * 1_921_920)
    after = measure(model)
    assert after.component("text_encoder").params == 4
    assert after.component("denoiser").params == (
        before.params - 27_875_520 - 25_559_040 + 2 * 1_921_920
    )


@pytest.mark.slow
def test_quantised_stored_and_exported(tmp_path, monkeypatch):
    monkeypatch.setitem(FAMILIES, "guided", GuidedSource)
    source = GuidedSource()
    passes = [Strip(), Quantize(method="minmax", calibration=SMALL)]
    model = guided_family("invsr")
    for step in passes:
        step.convert(model)
        step.fit(model, FitContext(source=guided_family("invsr")))
    save_model(model, tmp_path / "m.safetensors", source, passes)
    again = load_model(tmp_path / "m.safetensors")
    assert difference(model, again) == 0
    options = ExportOptions(
        target="onnx",
        lr_size=(16, 16),
        images=1,
        probes=("textured", "photo 1"),
        threads=1,
        components=("model",),
    )
    made = export(again, tmp_path / "onnx", options)
    assert failures(made.rows) is None, made.rows
