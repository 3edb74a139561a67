"""Names of the hub in place of paths: which words are some, and what happens without an answer."""

import json
import re
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from support.hub import forget, fresh, serving

from compress.core import hub as names
from compress.core.errors import UserError
from compress.core.hub import HubName, hub_name, local_file, local_folder
from compress.core.hub_config import FILES, FOLDERS, with_local_files
from compress.core.image import write_image
from compress.core.weight_file import write_tensors
from compress.data.folder import find_images
from compress.families import FAMILIES
from compress.families.ccsr import CCSRSource
from compress.families.dossr import DoSSRSource
from compress.families.osediff import OSEDiffSource
from compress.families.tsdsr import TSDSRSource
from compress.networks.diffusers_layout import layout_in
from compress.recipe.checkpoint import FORMAT, load_model
from compress.recipe.places import without_places
from compress.routing.router import Router
from compress.training import losses
from eval.data.dataset import open_data
from eval.metric.locating import weights_folder
from eval.metric.weight_files import Weight, WeightsMissingError, find


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with serving() as server:
        fresh(monkeypatch, server.address, tmp_path / "cache")
        yield server
    forget()


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("org/name", HubName("org/name")),
        ("org/name-1.5", HubName("org/name-1.5")),
        ("org/name@v1", HubName("org/name", "v1")),
        ("org/name:runs/a", HubName("org/name", None, "runs/a")),
        ("org/name@refs/pr/1:a.pth", HubName("org/name", "refs/pr/1", "a.pth")),
        ("hf://org/name", HubName("org/name")),
        (Path("hf://org/name:x"), HubName("org/name", None, "x")),
        ("hf://datasets/org/name", HubName("org/name")),
    ],
)
def test_names(word, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_name(word) == name
    assert str(name) == str(word).removeprefix("hf:/").lstrip("/").removeprefix("datasets/")


@pytest.mark.parametrize(
    "word",
    ["", "name", "/org/name", "./org/name", "../name", "a/b/c", "org/name.safetensors",
     "photos/a.png", "recipes/mine.yaml", "~/name", "org/", "C:/name", "org/na me", "a\0/b"],
)  # fmt: skip
def test_paths(word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_name(word) is None


def test_what_is_there_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert hub_name("runs/mine") is None
    assert hub_name("runs/mien") is None  # a slip of the pen is told at once, and nobody is asked
    assert hub_name("hf://runs/mien") == HubName("runs/mien")


def test_labels():
    assert HubName("org/name").label == "name"
    assert HubName("org/name", None, "runs/a").label == "a"


def test_files_and_revisions(hub):
    first = hub.put("org/name", {"a/model.safetensors": b"first"})
    hub.put("org/name", {"a/model.safetensors": b"second", "readme.md": b""})
    assert local_file("org/name:a", "model.safetensors").read_bytes() == b"second"
    assert local_file(f"org/name@{first}:a", "model.safetensors").read_bytes() == b"first"
    assert local_file("org/name:readme.md").read_bytes() == b""


def test_only_what_is_wanted_is_fetched(hub):
    hub.put(
        "org/name", {"a.json": b"{}", "sub/b.json": b"{}", "run.py": b"import os", "x.pkl": b""}
    )
    folder = local_folder("org/name", (".json",))
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert sorted(found) == ["a.json", "sub/b.json"]
    assert local_folder("org/name:sub", (".json",)).name == "sub"


def test_photographs_are_of_data_sets(hub):
    hub.put("org/photos", {"LR/a.png": b"png"}, "datasets")
    assert (local_folder("org/photos", (".png",), "dataset") / "LR" / "a.png").is_file()


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("org/other", "no such path is here, and no model of that name"),
        ("org/name@v9", "no revision 'v9'"),
        ("org/name:b", "no file 'b/model.safetensors'"),
        ("org/name:../b", "cannot be had|no file"),
    ],
)
def test_what_is_not_there_is_one_sentence(hub, word, why):
    hub.put("org/name", {"a/model.safetensors": b"first"})
    with pytest.raises(UserError, match=rf"{why}.*give a path.*org/name\[@revision\]"):
        local_file(word, "model.safetensors")


@pytest.mark.parametrize("trouble", ["HF_HUB_OFFLINE", "no answer", 503, 429, 200])
def test_without_an_answer_the_cache_does_and_nobody_waits(hub, monkeypatch, trouble):
    hub.put("org/name", {"a.json": b"{}", "model.safetensors": b"first"})
    file, folder = local_file("org/name:a.json"), local_folder("org/name", (".json",))
    forget()
    hub.asked.clear()
    if trouble == "HF_HUB_OFFLINE":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif trouble == "no answer":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    hub.broken = trouble if isinstance(trouble, int) else 0
    began = time.monotonic()
    assert local_file("org/name:a.json") == file
    assert local_folder("org/name", (".json",)) == folder
    with pytest.raises(UserError, match=r"nor that of the hub in its cache.*once with a network"):
        local_file("org/other:a.json")
    assert time.monotonic() - began < 5
    assert len(hub.asked) == (2 if hub.broken else 0)


@pytest.mark.parametrize("trouble", [503, 200])
def test_a_base_is_asked_for_once_and_not_again(hub, trouble):
    hub.broken = trouble
    with pytest.raises(UserError, match=r"org/sd: .*nor that of the hub in its cache"):
        layout_in("org/sd", 999)
    assert hub.asked == ["GET /api/models/org/sd"]


def test_a_base_that_is_not_there_is_told(hub):
    with pytest.raises(UserError, match=r"org/sd: .*no model of that name"):
        layout_in("org/sd", 999)


def test_a_login_that_is_refused_is_told(hub):
    hub.broken = 401
    with pytest.raises(UserError, match=r"401.*log in with `hf auth login`, or give a path"):
        local_file("org/name:a.json")


def test_metrics_leave_the_hub_alone_offline(hub, monkeypatch):
    weight = Weight("a.pth", "a metric", f"{hub.address}/org/iqa/resolve/main/a.pth")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsMissingError, match="HF_HUB_OFFLINE is set"):
        find(weight, None)
    assert not hub.asked


def test_weights_of_a_config(hub, tmp_path):
    hub.put("org/name", {"x.safetensors": b"x"})
    named = OSEDiffSource(weights="org/name:x.safetensors")
    assert Path(with_local_files(named).weights).read_bytes() == b"x"
    assert named.weights == "org/name:x.safetensors"
    plain = OSEDiffSource(weights=str(tmp_path / "x.safetensors"))
    assert with_local_files(plain) is plain
    with pytest.raises(UserError, match="say which as org/name:FILE"):
        with_local_files(OSEDiffSource(weights="org/name"))


def test_every_file_of_a_source_may_be_of_the_hub(hub):
    hub.put("org/name", {"a.pth": b"a", "sd3.safetensors": b"b", "prompt/pool_embeds.pt": b"c"})
    found = with_local_files(
        CCSRSource(size="full", controlnet="org/name:a.pth", vae="org/name:a.pth", base="org/sd")
    )
    assert [Path(found.controlnet).read_bytes(), Path(found.vae).read_bytes()] == [b"a", b"a"]
    assert found.base == "org/sd"
    assert Path(with_local_files(DoSSRSource(checkpoint="org/name:a.pth")).checkpoint).is_file()
    named = TSDSRSource(base="org/name:sd3.safetensors", embeddings="org/name:prompt")
    local = with_local_files(named)
    assert Path(local.base).read_bytes() == b"b"
    assert (Path(local.embeddings) / "pool_embeds.pt").read_bytes() == b"c"


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_key_that_names_a_file_is_known(family):
    """By what its description says: a file that is not listed could not be of the hub."""
    for key, field in FAMILIES[family].model_fields.items():
        told = field.description or ""
        is_place = field.annotation in (str, str | None) and re.search(r"\b(file|folder)\b", told)
        if is_place and key not in ("base", "pipeline", "path", "family", "size"):
            assert key in (*FILES, *FOLDERS), key
            assert without_places({key: "/home/me/x.pth"}) == {key: "x.pth"}


def test_a_router_may_be_of_the_hub(hub):
    hub.put("org/name", {"router.safetensors": b"no router"})
    with pytest.raises(UserError, match="not a readable safetensors file"):
        Router.load("org/name:router.safetensors")


def test_weights_of_metrics(hub):
    file = "lpips.safetensors"
    hub.put("org/iqa", {f"v1/{file}": b"weights", "v1/README.md": b"words"})
    assert (weights_folder("org/iqa:v1") / file).read_bytes() == b"weights"
    assert not any(path.endswith(".md") for path in hub.asked)
    with pytest.raises(UserError, match=r"org/iqa:v2: .*no such folder"):
        weights_folder("org/iqa:v2")


def test_weights_of_losses(hub):
    hub.put("org/iqa", {"lpips.safetensors": b"cut off"})
    with pytest.raises(UserError, match=r"LPIPS weights .*lpips\.safetensors cannot be read"):
        losses.lpips("org/iqa:lpips.safetensors")


def test_a_model_of_a_stranger_is_only_tensors(hub):
    hub.put("org/name", {"model.safetensors": b"\x80\x04cos\nsystem\n", "modeling.py": b"boom"})
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_model("org/name")
    assert not [path for path in hub.asked if path.endswith(".py")]


@pytest.mark.parametrize(
    "source",
    [
        {"family": "spandrel", "path": "other/net:a.pth"},
        {"family": "diffusers_pipeline", "pipeline": "other/net"},
    ],
)
def test_a_header_of_a_stranger_fetches_nothing(hub, tmp_path, source):
    header = {"format": FORMAT, "source": json.dumps(source), "passes": "[]"}
    write_tensors(tmp_path / "model.safetensors", {"x": torch.zeros(1)}, header)
    hub.put("org/name", {"model.safetensors": (tmp_path / "model.safetensors").read_bytes()})
    with pytest.raises(UserError, match="names another file to build from"):
        load_model("org/name")
    assert not [path for path in hub.asked if "other" in path]


def test_a_data_set_goes_by_its_name(hub, tmp_path):
    for side, name in ((16, "LR/a.png"), (64, "HR/a.png")):
        write_image(torch.rand(1, 3, side, side), tmp_path / name)
    files = {name: (tmp_path / name).read_bytes() for name in ("LR/a.png", "HR/a.png")}
    hub.put("org/photos", files, "datasets")
    assert open_data("org/photos").name == "photos"
    assert open_data("org/photos:LR").name == "photos"
    assert [path.name for path in find_images(["org/photos:LR"])] == ["a.png"]


def test_names_are_remembered_within_a_command(hub):
    hub.put("org/name", {"a.json": b"{}"})
    local_file("org/name:a.json")
    hub.asked.clear()
    local_file("org/name:a.json")
    assert hub.asked == []
    assert names.FORM == "org/name[@revision][:subfolder]"
