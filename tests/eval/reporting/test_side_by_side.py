"""A page of one's own photographs: columns and photographs told apart, sizes, one file."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.core.errors import UserError
from eval.compare import main
from eval.reporting.side_by_side import PLAIN, sort_out, write_page


def call(*words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code


@pytest.fixture
def photo_file(tmp_path, photo) -> Path:
    """A photograph of 32x24."""
    photo(32, 24).save(tmp_path / "cat.jpg")
    return tmp_path / "cat.jpg"


@pytest.fixture
def folder(tmp_path, photo):
    """Makes a folder with a picture of the photograph: folder("a", size=(128, 96))."""

    def make(name: str, size=(128, 96), file="cat_x4.png") -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        photo(*size, seed=len(name)).save(tmp_path / name / file)
        return tmp_path / name

    return make


def test_the_page_holds_every_column_and_nothing_from_elsewhere(photo_file, folder, tmp_path):
    out = tmp_path / "out"
    assert call(folder("a"), folder("second", file="cat.png"), photo_file, "-o", out) == 0
    page = (out / "compare.html").read_text(encoding="utf-8")
    assert re.findall(r'data-label="([^"]+)"', page) == [PLAIN, "a", "second"]
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:)""", page)
    assert not re.search(r"https?://|@import|url\(|fetch\(", page)
    assert [path.name for path in out.iterdir()] == ["compare.html"]
    assert "<option selected>a</option>" in page
    assert "<option selected>second</option>" in page


def test_what_serves_keyboard_and_reader_is_there(photo_file, folder, tmp_path):
    assert call(folder("a"), photo_file, "-o", tmp_path / "out") == 0
    page = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    assert 'type="range"' in page
    assert page.count("<select") == page.count("<label>") == 2
    for name in ("zoom in", "zoom out", "where left ends and right begins"):
        assert f'aria-label="{name}"' in page
    assert 'id="photo"' not in page  # one photograph: nothing to choose


def test_a_model_is_run_on_the_photograph(photo_file, folder, tmp_path, monkeypatch):
    from eval.reporting import side_by_side

    class Model:
        """Enlarges by repeating pixels."""

        def upscale_bytes(self, lr):
            pixels = (lr[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            return pixels.repeat(4, 0).repeat(4, 1)

    (tmp_path / "nano.safetensors").touch()
    read = []
    monkeypatch.setattr(side_by_side, "load_model", lambda path: read.append(path) or Model())
    said = []
    asked = sort_out([photo_file, tmp_path / "nano.safetensors", folder("a")])
    assert list(asked.columns) == ["nano", "a"]
    page = write_page(asked, tmp_path / "out", say=said.append)
    assert read == [tmp_path / "nano.safetensors"]
    assert said == [f"{photo_file} by {tmp_path / 'nano.safetensors'}"]
    assert 'data-label="nano"' in page.read_text(encoding="utf-8")


def test_a_run_goes_by_its_folder(tmp_path, photo_file):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    asked = sort_out([tmp_path / "one", tmp_path / "two" / "model.safetensors", photo_file])
    assert list(asked.columns) == ["one", "two"]


def test_sizes_that_differ_are_refused(photo_file, folder, tmp_path, capsys):
    wrong = folder("wrong", size=(64, 48))
    assert call(folder("a"), wrong, photo_file, "-o", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {wrong}: its picture of 'cat' is 64x48, and the photograph")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["cat.jpg"], "nothing to compare"),
        (["a"], "no photograph was named"),
        (["a", "nowhere", "cat.jpg"], "nowhere: no such model, run, folder"),
        (["a", "below/a", "cat.jpg"], "two models, runs or folders called 'a'"),
        (["a", "cat.jpg", "below/cat.jpg"], "two photographs called 'cat'"),
        (["a", "dog.jpg"], "holds no picture dog.png or dog_x4.png"),
        (["a", "cat.jpg", "--max-pixels", "700"], "--max-pixels 768"),
        (["a", "cat.jpg", "-o", "cat.jpg"], "is a file; give a folder"),
    ],
)
def test_refusals(words, says, photo_file, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder("a")
    (tmp_path / "below").mkdir()
    folder("below/a")
    for copy in ("below/cat.jpg", "dog.jpg"):
        Image.open(photo_file).save(tmp_path / copy)
    assert call(*words) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "compared").exists()


def test_a_page_of_somebody_else_is_not_replaced(photo_file, folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "compare.html").write_text("mine")
    assert call(folder("a"), photo_file, "-o", tmp_path / "out") == 2
    assert (tmp_path / "out" / "compare.html").read_text() == "mine"


def test_photographs_keep_their_columns_by_name(photo_file, folder, tmp_path, photo):
    photo(20, 40, seed=3).save(tmp_path / "dog.png")
    one = folder("a")
    folder("a", size=(80, 160), file="dog.png")
    page = write_page(sort_out([one, photo_file, tmp_path / "dog.png"]), tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    sizes = re.findall(r'alt="(\w+), [^"]*" width="(\d+)" height="(\d+)"', text)
    assert sizes == [("cat", "128", "96")] * 2 + [("dog", "80", "160")] * 2
    assert 'id="photo"' in text


def test_pictures_of_one_name_twice_are_refused(photo_file, folder):
    folder("a")
    with pytest.raises(UserError, match="keep one of them"):
        write_page(sort_out([folder("a", file="cat.png"), photo_file]), Path("unused"))
