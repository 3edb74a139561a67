"""Chains as a graph a component: what run.py computes of their steps is what torch computes.

Guidance calls the networks of a step on two texts.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from support.guided_family import GUIDANCE, guided_family
from support.tiny_families import tiny_family

from compress.model.sr_model import SRModel
from compress.passes.strip import Strip
from compress.recipe.export_options import ExportOptions
from export.graphs.components import graphs_of, parts_of
from export.parity.rows import failures
from export.targets.export_folder import export, finish
from export.targets.host import chain
from export.targets.host.folder import read
from export.targets.host.runtimes import load

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
