"""Chains as a graph a component: what run.py computes of their steps is what torch computes.

Guidance calls the networks of a step on two texts. Self-refinement runs the decoder and more
between the steps, and the next step sees what they make.
"""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from support.guided_family import GUIDANCE, guided_family
from support.tiny_families import tiny_family

from compress.model.sr_model import SRModel
from compress.passes.freeze import Freeze
from compress.passes.strip import Strip
from compress.process.knobs import STEPS
from compress.recipe.export_options import ExportOptions
from compress.routing import knobs
from export.devices.graphs import calls_of
from export.graphs.components import dynamic_axes, graphs_of, parts_of
from export.parity.rows import failures
from export.targets.export_folder import export, finish
from export.targets.host import chain
from export.targets.host.folder import FolderError, read
from export.targets.host.runtimes import load
from export.targets.host.turning import turned

SIDE = 16
OPTIONS = ExportOptions(
    target="onnx", lr_size=(SIDE, SIDE), images=1, probes=("textured", "photo 1"), threads=1
)


def write(model: SRModel, out: Path) -> Path:
    """The graphs of the components, and run.py."""
    made = export(model, out, OPTIONS.model_copy(update={"components": parts_of(model)}))
    assert failures(made.rows) is None, made.rows
    finish(out, None)
    return out


def walked(folder: Path, lr: np.ndarray) -> tuple[np.ndarray, Counter[str]]:
    """What the host program makes of a tile, and how often it ran each graph."""
    manifest = read(folder)
    calls: Counter[str] = Counter()

    def counted(name: str, graph):
        def run(*arrays):
            calls[name] += 1
            return graph(*arrays)

        return run

    loaded = load(folder, chain.parts(manifest), 1)
    graphs = {name: counted(name, graph) for name, graph in loaded.items()}
    return chain.chain(manifest, graphs, lr), calls


def picture() -> torch.Tensor:
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def check(model: SRModel, folder: Path) -> Counter[str]:
    """Compare with torch; how often each graph ran."""
    lr = picture()
    found, calls = walked(folder, lr.numpy())
    expected = model.network(lr).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    return calls


def test_the_texts_of_guidance_are_a_graph():
    specs = graphs_of(guided_family("invsr"))
    assert specs["text_encoder"].inputs == ("lr",)
    assert specs["text_encoder"].outputs == ("context", "negative_context")
    assert specs["denoiser"].inputs == ("state", "context", "timestep")
    assert "text_encoder" not in graphs_of(tiny_family("invsr", 2, autoencoder=False))


def test_further_arguments_are_a_tuple_to_the_exporter():
    model = guided_family("invsr")
    state, context, others = dynamic_axes(model, "denoiser")
    assert set(state) == {2, 3}
    assert context == {}
    assert others == ({},)
    assert [set(axes) for axes in dynamic_axes(model, "text_encoder")] == [{2, 3}]


@pytest.mark.slow
@pytest.mark.parametrize("folded", [False, True])
def test_guidance_is_two_calls_on_two_texts(tmp_path, folded):
    model = guided_family("invsr", 2)
    if folded:  # the networks are told the number of a text
        Strip().convert(model)
    folder = write(model, tmp_path / "onnx")
    steps = read(folder)["host"]["steps"]
    for negative, positive in (steps[:2], steps[2:]):
        assert negative["instead"] == {"context": "negative_context"}
        assert negative["factors"] == {"state": 1.0}
        assert "instead" not in positive
    once, both = (steps[1]["factors"][name] for name in ("prediction_0", "prediction"))
    assert once / both == pytest.approx((1 - GUIDANCE) / GUIDANCE)
    calls = check(model, folder)
    assert calls["denoiser"] == 4
    assert calls["text_encoder"] == 1


@pytest.mark.slow
def test_guidance_from_the_second_step_on(tmp_path):
    model = guided_family("ccsr", 2, first=1)
    folder = write(model, tmp_path / "onnx")
    steps = read(folder)["host"]["steps"]
    assert [bool(step.get("instead")) for step in steps] == [True, True, False]
    calls = check(model, folder)
    assert calls["control"] == calls["denoiser"] == 3


@pytest.fixture(scope="module")
def refined(tmp_path_factory) -> tuple[SRModel, Path]:
    """Its hint and its tokens are large enough to count."""
    model = tiny_family("addsr", 3, autoencoder=False)
    for network, gain in ((model.hint, 4), (model.tokens.image_proj, 64)):
        for parameter in network.parameters():
            parameter *= gain
    return model, write(model, tmp_path_factory.mktemp("refined") / "onnx")


@pytest.mark.slow
def test_the_manifest_says_what_runs_between_steps(refined):
    manifest = read(refined[1])
    host = manifest["host"]
    assert [call["graph"] for call in host["between"]] == ["decoder", "refine", "hint", "tokens"]
    assert host["between"][0]["instead"] == {"clean_latent": "clean"}
    assert host["between"][0]["makes"] == {"image": "decoded"}
    seen = {"hint": "refined_hint", "image_tokens": "refined_image_tokens"}
    assert [step.get("instead") for step in host["steps"]] == [None, seen, seen]
    before, each, after = chain.stages(manifest)
    assert each == ["control", "denoiser", "refine"]
    assert {"hint", "tokens"} <= set(before)
    assert after == ["decoder"]


@pytest.mark.slow
def test_later_steps_see_what_the_step_before_made(refined):
    model, folder = refined
    calls = check(model, folder)
    assert {calls[name] for name in ("control", "denoiser", "decoder", "hint", "tokens")} == {3}
    assert calls["refine"] == 2
    counted = calls_of(read(folder))
    assert counted == {name: calls[name] for name in counted}
    assert set(counted) == {"control", "denoiser", "decoder", "refine", "hint", "tokens"}


@pytest.mark.slow
def test_frozen_tokens_lie_in_the_graphs(tmp_path):
    """They are the same behind each step, so no graph makes them between the steps."""
    model = tiny_family("addsr", 2, autoencoder=False)
    Freeze(component="tokens", value="zero").convert(model)
    folder = write(model, tmp_path / "onnx")
    host = read(folder)["host"]
    assert [call["graph"] for call in host["between"]] == ["decoder", "refine", "hint"]
    assert host["steps"][1]["instead"] == {"hint": "refined_hint"}
    assert "tokens" not in check(model, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hint", "image_tokens"])
def test_each_value_that_is_put_in_place_counts(refined, name):
    manifest = read(refined[1])
    lr = picture().numpy()
    graphs = load(refined[1], chain.parts(manifest), 1)
    whole = chain.chain(manifest, graphs, lr)
    for step in manifest["host"]["steps"][1:]:
        del step["instead"][name]
    apart = np.abs(chain.chain(manifest, graphs, lr) - whole).max()
    assert apart > 1e-3 * np.abs(whole).max()


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.0, 0.3, 0.5, 0.8])
def test_a_refined_chain_may_end_early(refined, strength):
    """The knob of steps: what run.py turns is what torch turns."""
    model, folder = refined
    lr = picture()
    whole = read(folder)
    manifest, graphs = turned(whole, load(folder, chain.parts(whole), 1), STEPS, strength)
    found = chain.chain(manifest, graphs, lr.numpy())
    with knobs.turned(model, STEPS, strength):
        expected = model.network(lr).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda host: host.update(between=[3]), "host.between.0 is no call"),
        (lambda host: host["between"][1].pop("graph"), "host.between.1.graph is missing"),
        (lambda host: host["between"][0].update(makes={"image": 2}), "between.0.makes is .*names"),
        (lambda host: host["steps"][0].pop("clean"), "host.steps.0.clean is missing"),
    ],
)
def test_a_damaged_manifest_is_told(refined, tmp_path, change, said):
    manifest = json.loads((refined[1] / "manifest.json").read_text())
    change(manifest["host"])
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FolderError, match=said):
        read(tmp_path)


@pytest.mark.slow
def test_without_a_graph_between_steps_it_is_no_model(refined):
    manifest = read(refined[1])
    del manifest["graphs"]["refine"]
    assert chain.stages(manifest) is None
