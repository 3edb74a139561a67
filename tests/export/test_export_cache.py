"""Exports that were made before."""

import logging
import shutil
from dataclasses import replace

import pytest
from PIL import Image
from support.tiny_model import tiny

from compress.cache import main as cache_command
from compress.core import folders, marks
from compress.core.errors import UserError
from compress.recipe.cache_entry import ARCHIVE, EXPORT, MADE, PASS, problem
from compress.recipe.export_options import ExportOptions
from export.targets import export_cache
from export.targets.export_cache import export_key, export_or_recall
from export.targets.export_folder import finish

OPTIONS = ExportOptions(
    target="onnx", components=("decoder",), lr_size=(32, 32), images=2, threads=1, probes=("flat",)
)
SHA256 = "5a" * 32  # stands for the file that the tiny model was read from


def make(folder, name, root, options=OPTIONS):
    made = export_or_recall(tiny(), folder / name, options, SHA256, root)
    return made, finish(folder / name, None)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The cache with one export, what was made and where it lies."""
    folder = tmp_path_factory.mktemp("first")
    return folder / "cache", *make(folder, "made", folder / "cache")


@pytest.fixture
def copied(first, monkeypatch):
    """An exporter that copies the first export: what the cache makes of one does not depend on how
    it was made.
    """

    def copy(model, out, options, sha256):
        partial = folders.begin(out, marks.EXPORT)
        shutil.copytree(first[2], partial, dirs_exist_ok=True)
        return replace(first[1])

    monkeypatch.setattr(export_cache, "export", copy)


@pytest.fixture
def no_export(monkeypatch):
    def refuse(*_):
        raise AssertionError("exported again")

    monkeypatch.setattr(export_cache, "export", refuse)


def test_the_second_export_is_the_first(first, tmp_path, no_export, caplog):
    root, made, folder = first
    with caplog.at_level(logging.INFO):
        again, copy = make(tmp_path, "again", root)
    assert contents(copy) == contents(folder)
    assert again.rows == made.rows
    assert again.graphs == made.graphs
    assert again.tools == made.tools
    assert again.notes == made.notes
    assert "export from the cache" in caplog.text


def test_the_command_lists_it(first, capsys):
    root, _, _ = first
    with pytest.raises(SystemExit) as ended:
        cache_command(["list", "--cache", str(root), "--check"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "export onnx 32x32: model 5a5a5a5a5a5a" in told
    assert "[sound]" in told


@pytest.mark.usefixtures("copied")
def test_without_a_cache_nothing_is_kept(tmp_path):
    made, _ = make(tmp_path, "made", None)
    assert made.rows
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.usefixtures("copied")
@pytest.mark.parametrize("name", [ARCHIVE, MADE])
def test_a_damaged_entry_is_told_and_made_again(first, tmp_path, name, caplog):
    source, made, _ = first
    (entry,) = source.iterdir()
    root = tmp_path / "cache"
    copy = root / entry.name
    copy.mkdir(parents=True)
    for path in entry.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / name).write_bytes((entry / name).read_bytes()[:-1])
    again, _ = make(tmp_path, "again", root)
    assert "it is exported again" in caplog.text
    assert again.rows == made.rows
    assert problem(copy, EXPORT) is None
    assert problem(copy, PASS) is not None


def test_what_does_not_agree_with_torch_is_not_kept(tmp_path):
    options = OPTIONS.model_copy(update={"tolerance": 1000.0})
    export_or_recall(tiny(), tmp_path / "made", options, SHA256, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))


@pytest.mark.usefixtures("copied")
def test_a_cache_that_cannot_be_written_is_told(tmp_path, caplog):
    root = tmp_path / "cache"
    root.write_text("a file")
    made, folder = make(tmp_path, "made", root)
    assert made.rows
    assert (folder / "decoder.onnx").is_file()
    assert "the export is not kept here" in caplog.text


@pytest.mark.parametrize(
    "change", [{"dtype": "fp16"}, {"lr_size": (64, 32)}, {"seed": 1}, {"images": 3}]
)
def test_other_options_are_another_export(change):
    other = OPTIONS.model_copy(update=change)
    assert export_key(OPTIONS, SHA256) == export_key(OPTIONS.model_copy(), SHA256)
    assert export_key(other, SHA256) != export_key(OPTIONS, SHA256)


def test_other_weights_code_and_packages_are_another_export(monkeypatch):
    before = export_key(OPTIONS, SHA256)
    assert export_key(OPTIONS, "5b" * 32) != before
    with monkeypatch.context() as patch:
        patch.setattr(export_cache, "code_version", lambda package: package)
        assert export_key(OPTIONS, SHA256) != before
    with monkeypatch.context() as patch:
        patch.setattr(export_cache, "_packages", lambda: "[('torch', '0')]")
        assert export_key(OPTIONS, SHA256) != before


def test_calibration_photographs_count_by_content(tmp_path):
    options = OPTIONS.model_copy(update={"calibration": str(tmp_path)})
    Image.new("RGB", (64, 64), (10, 20, 30)).save(tmp_path / "a.png")
    before = export_key(options, SHA256)
    Image.new("RGB", (64, 64), (10, 20, 31)).save(tmp_path / "a.png")
    assert export_key(options, SHA256) != before


def test_an_interpreter_that_is_none(tmp_path):
    options = OPTIONS.model_copy(update={"python": str(tmp_path / "none")})
    with pytest.raises(UserError, match="cannot be started"):
        export_key(options, SHA256)
