"""A run goes to the hub and comes back: the same figures, and a card that the hub can read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from support.hub import forget, fresh, serving
from support.telling_pass import Telling
from support.tiny_model import TinySource

from compress import api, push
from compress.core import tracks
from compress.core.errors import UserError
from compress.families import FAMILIES
from compress.passes import PASSES
from compress.recipe.recipe import parse_recipe
from eval import compare, report
from eval import run as eval_run
from eval.reporting import rundir
from eval.reporting.board import gather

ROOT = Path(__file__).parents[3]
TINY = {
    "name": "tiny_w8a8",
    "source": {"family": "tiny"},
    "passes": [
        {"pass": "quantize", "method": "minmax", "weights": 8, "activations": 8,
         "calibration": {"images": 1, "size": 32}},
        {"pass": "telling"},
    ],
    "export": [],
    "eval": {"data": ["embedded"], "metrics": ["psnr"], "limit": 1},
}  # fmt: skip
# What a stranger runs, who has the toolkit and the name; the tiny family is of the tests alone.
EVALUATE = """
from compress.core.quick_start import import_quickly
import_quickly()
from support.tiny_model import TinySource
from compress.families import FAMILIES
FAMILIES["tiny"] = TinySource
from support.telling_pass import Telling
from compress.passes import PASSES
PASSES["telling"] = Telling
from eval.run import main
main(["org/tiny", "--data", "embedded", "--metrics", "psnr", "--limit", "1", "-o", "out"])
"""


@pytest.fixture(scope="module", autouse=True)
def _tiny_family():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "tiny", TinySource)
        patch.setitem(PASSES, "telling", Telling)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, _tiny_family):
    folder = tmp_path_factory.mktemp("here")
    api.compress(parse_recipe(TINY, "a test"), out=folder / "tiny", cache=folder / "cache")
    return folder / "tiny"


@pytest.fixture(scope="module")
def hub(run, tmp_path_factory):
    """A hub that has the run."""
    cache = tmp_path_factory.mktemp("hub")
    with serving() as server, pytest.MonkeyPatch.context() as patch:
        fresh(patch, server.address, cache)
        server.url = api.push(
            run, "org/tiny", license="mit", base_model="org/large", datasets=["org/photos"]
        )
        yield server
    forget()


def test_the_run_keeps_and_shows_what_a_pass_told(run):
    place = run / "tracks" / "2_telling"
    assert [row["l1"] for row in tracks.read_rows(place)] == [1.0, 0.5]
    assert [step for step, _ in tracks.pictures(place)] == [2]
    page = (run / "report.html").read_text()
    assert "l1 from step 1 to 2: 0.5 to 1" in page
    assert "2 telling, samples after step 2" in page


def test_one_commit_with_all_that_is_read_again(hub, run):
    commit, files = hub.files("models", "org/tiny", "main")
    assert hub.url == f"{hub.address}/org/tiny/commit/{commit}"
    assert sorted(files) == [
        "README.md",
        "eval/embedded/averages.json",
        "eval/embedded/fidelity.json",
        "eval/embedded/metrics.csv",
        "eval/embedded/source/averages.json",
        "eval/embedded/source/metrics.csv",
        "ledger.json",
        "model.safetensors",
        "recipe.yaml",
    ]
    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert str(run.parent).encode() not in b"".join(files.values())


def test_the_card_is_complete(hub, run):
    content = hub.files("models", "org/tiny", "main")[1]["README.md"].decode()
    card = ModelCard(content)
    data = card.data
    assert (data.license, data.base_model) == ("mit", "org/large")
    assert (data.pipeline_tag, data.library_name) == ("image-to-image", "diffusion-sr-compress")
    assert {"super-resolution", "tiny", "quantize", "telling"} <= set(data.tags)
    assert data.datasets == ["org/photos"]
    assert data.metrics == ["psnr"]
    [result] = data.eval_results
    means = json.loads((run / "eval" / "embedded" / "averages.json").read_text())
    assert result.metric_value == means["psnr"]
    assert (result.dataset_name, result.dataset_config) == ("embedded", means["protocol"])
    assert 'load_model("org/tiny")' in card.text


def test_a_stranger_measures_the_same_to_the_digit(hub, run, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", EVALUATE],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ
        | {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "fresh"),
            "HF_HUB_OFFLINE": "0",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        },
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "out" / "averages.json").read_text())
    assert measured["psnr"] == json.loads((run / "eval/embedded/averages.json").read_text())["psnr"]


def test_every_reader_takes_the_name(hub, run, tmp_path, monkeypatch, photo):
    monkeypatch.chdir(tmp_path)
    assert api.load("org/tiny").state_dict().keys() == api.load(run).state_dict().keys()
    assert rundir.read("org/tiny").name == "tiny_w8a8"
    assert eval_run.default_out(Path("org/tiny"), "embedded") == Path("eval-tiny-embedded")
    with pytest.raises(SystemExit) as end:
        report.main(["org/tiny"])
    assert end.value.code == 0
    assert "tiny_w8a8" in (tmp_path / "tiny" / "report.html").read_text()
    photo(16, 16).save("cat.png")
    with pytest.raises(SystemExit) as end:
        compare.main(["org/tiny", "cat.png", "-o", "out"])
    assert end.value.code == 0
    assert 'data-label="tiny"' in (tmp_path / "out" / "compare.html").read_text()


def test_a_run_without_an_evaluation_goes_by_its_name(hub):
    hub.put("org/bare", {"ledger.json": b"{}"})
    with pytest.raises(UserError, match=r"org/bare: was published without.*eval\.run org/bare "):
        gather([Path("org/bare")])


def test_a_second_push_is_a_second_commit(hub, run):
    before = len(hub.repos["models", "org/tiny"])
    with pytest.raises(SystemExit) as end:
        push.main([str(run), "org/tiny", "--license", "other"])
    assert end.value.code == 0
    assert len(hub.repos["models", "org/tiny"]) == before + 1
    card = ModelCard(hub.files("models", "org/tiny", "main")[1]["README.md"].decode())
    assert card.data.license == "other"
    assert card.data.base_model is None


@pytest.mark.parametrize(
    ("name", "terms", "why"),
    [
        ("org/tiny", None, "terms of its source's weights are not recorded"),
        ("tiny", "mit", "names no repository"),
        ("org/tiny@v1", "mit", "names no repository"),
    ],
)
def test_what_cannot_be_published(hub, run, name, terms, why):
    with pytest.raises(UserError, match=why):
        api.push(run, name, license=terms)


def test_nothing_is_published_offline(hub, run, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        api.push(run, "org/tiny", license="mit")


def test_the_hub_refuses(hub, run):
    hub.broken = 503
    try:
        with pytest.raises(UserError, match=r"took nothing.*hf auth login"):
            api.push(run, "org/tiny", license="mit")
    finally:
        hub.broken = 0


def test_what_is_no_hub_is_told(hub, run):
    hub.broken = 200
    try:
        with pytest.raises(UserError, match=r"does not answer as a hub does; look at HF_ENDPOINT"):
            api.push(run, "org/tiny", license="mit")
    finally:
        hub.broken = 0
