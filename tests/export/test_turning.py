"""The knobs of an exported folder: what run.py turns is what torch turns."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_families import tiny_family
from support.tiny_model import tiny

from compress.model.sr_model import SRModel
from compress.process.knobs import NOISE, STEPS
from compress.recipe.export_options import ExportOptions
from compress.routing.knobs import turned
from export.parity.rows import failures
from export.targets.described import host_steps
from export.targets.export_folder import export, finish
from export.targets.host import chain
from export.targets.host.folder import FolderError, read
from export.targets.host.runtimes import load
from export.targets.host.turning import check, own_knobs
from export.targets.host.turning import turned as turned_by_host
from export.targets.parts import choose_parts
from export.targets.table import choose_target

SIDE = 32


def exported(model: SRModel, out: Path) -> tuple[SRModel, Path]:
    made = export(model, out, ExportOptions(target="onnx", lr_size=(SIDE, SIDE), images=1))
    assert failures(made.rows) is None
    finish(out, None)
    return model, out


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> tuple[SRModel, Path]:
    """InvSR in three steps: its noise and its steps are the host's."""
    model = tiny_family("invsr", 3, autoencoder=False)
    return exported(model, tmp_path_factory.mktemp("several") / "onnx")


@torch.no_grad()
def compare(model: SRModel, folder: Path, knob: str, strengths: tuple[float, ...]) -> None:
    manifest = read(folder)
    names = chain.parts(manifest)
    check(manifest, names, knob)
    graphs = load(folder, names, 1)
    lr = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    whole = chain.chain(manifest, graphs, lr.numpy())
    for strength in strengths:
        with turned(model, knob, strength):
            wanted = model.network(lr).numpy()
        found = chain.chain(*turned_by_host(manifest, graphs, knob, strength), lr.numpy())
        np.testing.assert_allclose(found, wanted, atol=2e-3)
        assert (np.abs(found - whole).max() > 1e-3) == (strength != 1)


@pytest.mark.parametrize("knob", [NOISE, STEPS])
def test_the_host_turns_as_torch_does(several, knob):
    compare(*several, knob, (0.0, 0.3, 0.5, 1.0))


@pytest.mark.slow
def test_the_noise_of_one_step_lies_between_graphs(tmp_path):
    model, folder = exported(tiny_family("invsr", 1, autoencoder=False), tmp_path / "onnx")
    assert own_knobs(read(folder)) == [NOISE]
    compare(model, folder, NOISE, (0.0, 0.5, 1.0))


def test_the_manifest_says_it(several):
    host = read(several[1])["host"]
    assert host["noise"] == ["start_noise"]
    assert set(host["steps"][0]["clean"]) == {"state", "prediction"}
    assert "--knob noise: start_noise times the strength" in host["does"]
    assert any(step.startswith("--knob steps:") for step in host["does"])


def test_what_a_folder_lacks_is_a_sentence(several, tmp_path):
    manifest = read(several[1])
    with pytest.raises(FolderError, match="no such knob; it has noise, steps besides"):
        check(manifest, chain.parts(manifest), "weights")
    with pytest.raises(FolderError, match="take --graphs parts"):
        check(manifest, ["model"], STEPS)
    plain = {**manifest, "host": {"clean_latent": {"latent": 1.0}}}
    with pytest.raises(FolderError, match="has the blend of outputs alone"):
        check(plain, chain.parts(manifest), NOISE)
    check(plain, ["model"], "outputs")


def test_the_program_turns_it(several, tmp_path):
    lr = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(lr).save(tmp_path / "small.png")
    found = {}
    for words in ("noise 0", "steps 0", "steps 1", "outputs 1"):
        knob, strength = words.split()
        done = program(several[1], tmp_path, words, "--knob", knob, "--strength", strength)
        assert done.returncode == 0, done.stderr
        found[words] = np.asarray(Image.open(tmp_path / words / "small_x4.png"))
    np.testing.assert_array_equal(found["steps 1"], found["outputs 1"])
    assert (found["noise 0"] != found["steps 1"]).any()
    assert (found["noise 0"] != found["steps 0"]).any()
    done = program(several[1], tmp_path, "x", "--knob", "weights")
    assert done.returncode == 2
    assert "no such knob" in done.stderr
    assert "Traceback" not in done.stderr


def program(folder: Path, place: Path, out: str, *words: str) -> subprocess.CompletedProcess:
    call = [sys.executable, str(folder / "run.py"), str(place / "small.png")]
    return subprocess.run(
        [*call, "-o", str(place / out), "--threads", "1", *words], capture_output=True, text=True
    )


def test_a_damaged_manifest_is_a_sentence(several, tmp_path):
    data = json.loads((several[1] / "manifest.json").read_text())
    data["host"]["steps"][0]["clean"] = {}
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(FolderError, match=r"host\.steps\.0\.clean holds no factor"):
        read(tmp_path)


def test_a_model_without_a_knob_has_no_word_of_it():
    options = ExportOptions(target="onnx", lr_size=(SIDE, SIDE))
    parts = choose_parts(tiny(), choose_target("onnx"), options)
    assert "noise" not in parts.process
    assert not [step for step in host_steps(parts, "none", "none") if "--knob" in step]
