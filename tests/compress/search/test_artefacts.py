"""What a study keeps elsewhere: in a folder, or in a store for objects."""

import logging

import pytest
from support.tiny_model import TinySource, tiny

from compress.core.errors import UserError
from compress.families import FAMILIES
from compress.recipe.checkpoint import load_model
from compress.recipe.recipe import parse_recipe
from compress.search.artefacts import check_artefacts, open_artefacts, study_folder
from compress.search.results import MEASURED, result

RECIPE = {
    "name": "a",
    "source": {"family": "tiny"},
    "passes": [],
    "export": [],
    "eval": {"data": ["embedded"], "metrics": ["psnr"]},
}


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.setitem(FAMILIES, "tiny", TinySource)
    return parse_recipe(RECIPE, "a recipe")


def study_in(folder):
    folder.mkdir()
    (folder / "study.json").write_text("settings")
    (folder / "points.json").write_text("points")
    return folder


def test_a_point_in_a_store_loads_alone(recipe, store, tmp_path):
    place = open_artefacts("memory://bucket/mine", "--artefacts")
    place.keep(3, recipe, tiny(), result(MEASURED, costs={"bytes": 1.0}))
    assert b"measured" in store.cat("/bucket/mine/point_3/result.json")
    store.get_file("/bucket/mine/point_3/model.safetensors", str(tmp_path / "model.safetensors"))
    loaded = load_model(tmp_path / "model.safetensors").state_dict()
    assert loaded.keys() == tiny().state_dict().keys()


def test_a_study_comes_back_from_a_store(store, tmp_path):
    place = open_artefacts("memory://bucket/mine", "--artefacts")
    place.mirror(study_in(tmp_path / "study"))
    with study_folder("memory://bucket/mine") as folder:
        assert folder.name == "mine"
        assert (folder / "study.json").read_text() == "settings"
        assert (folder / "points.json").read_text() == "points"
    assert not folder.exists()


def test_a_folder_is_a_place_as_well(recipe, tmp_path):
    place = open_artefacts(str(tmp_path / "kept"), "--artefacts")
    check_artefacts(place, study_in(tmp_path / "study"))
    place.keep(0, recipe, tiny(), result(MEASURED))
    names = {path.name for path in (tmp_path / "kept").rglob("*") if path.is_file()}
    assert names == {"study.json", "model.safetensors", "result.json"}


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("nowhere://bucket", "Protocol not known: nowhere; give a folder, or a URL"),
        ("s3://bucket/mine", "needs a package that is not installed"),
    ],
)
def test_a_store_that_cannot_be_opened_is_one_sentence(place, sentence, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)  # as if it were not installed
    with pytest.raises(UserError) as told:
        open_artefacts(place, "--artefacts")
    assert sentence in str(told.value)
    assert "\n" not in str(told.value)


def test_a_place_that_cannot_be_written_ends_before_anything_is_computed(tmp_path):
    (tmp_path / "file").touch()
    place = open_artefacts(str(tmp_path / "file" / "below"), "--artefacts")
    with pytest.raises(UserError, match="cannot be written"):
        check_artefacts(place, study_in(tmp_path / "study"))


@pytest.mark.parametrize("root", ["memory://bucket/kept", "kept"])
def test_a_place_of_another_study_is_left_alone(root, store, tmp_path):
    where = root if "://" in root else str(tmp_path / root)
    place = open_artefacts(where, "--artefacts")
    mine = study_in(tmp_path / "study")
    check_artefacts(place, mine)
    check_artefacts(place, mine)  # the same again goes on
    other = study_in(tmp_path / "other")
    (other / "study.json").write_text("other settings")
    with pytest.raises(UserError, match="has another study; give a place of its own"):
        check_artefacts(place, other)
    assert place.read("study.json") == b"settings"


def test_somebody_s_folder_is_left_alone(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "points.json").write_text("mine")
    place = open_artefacts(str(tmp_path / "kept"), "--artefacts")
    with pytest.raises(UserError, match="holds other files and no study; give another place"):
        check_artefacts(place, study_in(tmp_path / "study"))
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["points.json"]


def test_a_point_that_cannot_be_kept_is_told_and_no_more(recipe, tmp_path, caplog):
    (tmp_path / "file").touch()
    place = open_artefacts(str(tmp_path / "file" / "below"), "--artefacts")
    with caplog.at_level(logging.WARNING):
        place.keep(7, recipe, tiny(), result(MEASURED))
    assert "point 7 is not kept" in caplog.text


def test_a_url_without_a_study(store):
    with (
        pytest.raises(UserError, match=r"has no study\.json and points\.json"),
        study_folder("memory://bucket/none"),
    ):
        pass
