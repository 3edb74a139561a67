"""Many photographs by one command: names, what exists, bad ones among good ones.

By the toolkit and by the code of run.py.
"""

import argparse
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compress import upscale
from compress.core.errors import UserError
from compress.core.image import to_uint8
from compress.model.calls import plain
from compress.model.sr_model import Tiling
from compress.photographs import batch
from compress.photographs.problem import PhotographError
from compress.pipeline import backends
from compress.process.strength import enlarged


class Loaded:
    """A model that repeats pixels, and how often it was loaded and called."""

    def __init__(self):
        self.loads = self.calls = 0

    def prepare(self):
        self.loads += 1
        return self.enlarge

    def enlarge(self, lr: np.ndarray, photograph: Path) -> np.ndarray:
        assert photograph.is_file()
        assert lr.dtype == np.float32
        assert lr.ndim == 4
        assert lr.min() >= 0
        assert lr.max() <= 1
        self.calls += 1
        return lr.repeat(4, 2).repeat(4, 3)


@pytest.fixture
def model() -> Loaded:
    return Loaded()


def options(out, *flags: str, convert: bool = False) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    batch.add_arguments(parser, convert)
    return parser.parse_args(["-o", str(out), *flags])


def photograph(path: Path, side: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(
        path, format="PNG"
    )
    return path


def refused(sources: list[Path], chosen: argparse.Namespace, model: Loaded, words: str) -> None:
    """Told before anything is computed or written."""
    files = {p: p.read_bytes() for p in Path(sources[0]).parent.rglob("*") if p.is_file()}
    with pytest.raises(PhotographError, match=words):
        batch.run(sources, chosen, model.prepare)
    assert model.loads == 0
    assert files == {p: p.read_bytes() for p in Path(sources[0]).parent.rglob("*") if p.is_file()}


def test_results_lie_beside_each_other(tmp_path, model, capsys):
    sources = [
        photograph(tmp_path / name)
        for name in ("a.b.png", ".hidden.png", "noext", "with 'quote\".png", "日本.png")
    ]
    assert batch.run(sources, options(tmp_path / "deep" / "out"), model.prepare) == 0
    assert sorted(os.listdir(tmp_path / "deep" / "out")) == sorted(
        ["a.b_x4.png", ".hidden_x4.png", "noext_x4.png", "with 'quote\"_x4.png", "日本_x4.png"]
    )
    small, large = (
        np.asarray(Image.open(sources[0])),
        np.asarray(Image.open(tmp_path / "deep/out/a.b_x4.png")),
    )
    np.testing.assert_array_equal(large, small.repeat(4, 0).repeat(4, 1))
    assert (model.loads, model.calls) == (1, 5)
    assert len(capsys.readouterr().out.splitlines()) == 5


@pytest.mark.parametrize(
    "names",
    [
        ("a.png", "a.jpg"),
        ("x/a.png", "y/a.png"),
        ("a.png", "A.png"),
        (unicodedata.normalize("NFC", "ü.png"), unicodedata.normalize("NFD", "ü.png")),
        ("a.png", "./a.png"),
    ],
)
def test_two_photographs_never_share_a_result(tmp_path, model, names):
    refused(
        [photograph(tmp_path / name) for name in names],
        options(tmp_path / "o"),
        model,
        "would both become",
    )
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("link", [None, "symbolic", "hard"])
def test_a_result_is_never_a_photograph(tmp_path, model, link):
    source, other = photograph(tmp_path / "a.png"), tmp_path / "a_x4.png"
    if link == "symbolic":
        other.symlink_to(photograph(tmp_path / "b.png"))
    elif link == "hard":
        os.link(photograph(tmp_path / "b.png"), other)
    else:
        photograph(other)
    other_name = tmp_path / "b.png" if link else other
    refused(
        [source, other_name],
        options(tmp_path, "--existing", "skip"),
        model,
        "would be the photograph",
    )


def test_a_result_that_is_not_there_yet_is_no_photograph(tmp_path, model):
    refused(
        [photograph(tmp_path / "a.png"), tmp_path / "a_x4.png"],
        options(tmp_path),
        model,
        "would be the photograph",
    )


def test_what_exists_is_refused_or_skipped(tmp_path, model, capsys):
    sources = [photograph(tmp_path / "a.png"), photograph(tmp_path / "b.png")]
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "b_x4.png").write_bytes(b"mine")
    refused(
        sources,
        options(tmp_path / "o"),
        model,
        "b_x4.png exists and is not overwritten.*--existing skip",
    )
    assert batch.run(sources, options(tmp_path / "o", "--existing", "skip"), model.prepare) == 0
    assert (tmp_path / "o" / "b_x4.png").read_bytes() == b"mine"
    assert (tmp_path / "o" / "a_x4.png").is_file()
    assert model.calls == 1
    assert "b_x4.png exists and is left" in capsys.readouterr().out
    model.loads = 0
    (tmp_path / "d_x4.png").symlink_to(tmp_path / "nowhere")  # a link to nothing is something too
    refused(
        [photograph(tmp_path / "d.png")], options(tmp_path), model, "exists and is not overwritten"
    )


def test_a_result_that_appears_meanwhile_is_left(tmp_path, model, capsys):
    sources = [photograph(tmp_path / "a.png"), photograph(tmp_path / "b.png")]

    def prepare():
        (tmp_path / "o").mkdir()
        (tmp_path / "o" / "a_x4.png").write_bytes(b"mine")
        return model.enlarge

    assert batch.run(sources, options(tmp_path / "o"), prepare) == 2
    assert (tmp_path / "o" / "a_x4.png").read_bytes() == b"mine"
    assert os.listdir(tmp_path / "o") == ["a_x4.png"]
    said = capsys.readouterr().err
    assert "File exists" in said
    assert "not done for that reason" in said


def test_bad_ones_are_told_at_the_end(tmp_path, model, capsys):
    (tmp_path / "text.png").write_text("no image")
    cut = photograph(tmp_path / "cut.png", 300)
    cut.write_bytes(cut.read_bytes()[:5000])
    sources = [
        tmp_path / "text.png",
        photograph(tmp_path / "a.png"),
        cut,
        tmp_path / "none.png",
        photograph(tmp_path / "b.png"),
        tmp_path,
    ]
    assert batch.run(sources, options(tmp_path / "o"), model.prepare) == 2
    assert sorted(os.listdir(tmp_path / "o")) == ["a_x4.png", "b_x4.png"]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    assert all(line.startswith("error: ") for line in said)
    assert [
        any(word in line for line in said)
        for word in (
            "text.png: not an image",
            "cut.png: the image is damaged",
            "none.png: no such",
            "is a folder",
        )
    ] == [True] * 4


def test_a_model_is_not_loaded_for_nothing(tmp_path, model):
    assert batch.run([tmp_path / "none.png"], options(tmp_path / "o"), model.prepare) == 2
    assert model.loads == 0
    assert not (tmp_path / "o").exists()


def test_values_that_are_not_finite_fail_one_photograph(tmp_path, model, capsys):
    def enlarge(lr, photograph):
        model.calls += 1
        if model.calls == 1:
            return np.full((1, 3, 80, 80), np.nan, np.float32)
        return model.enlarge(lr, photograph)

    sources = [photograph(tmp_path / "a.png"), photograph(tmp_path / "b.png")]
    assert batch.run(sources, options(tmp_path / "o"), lambda: enlarge) == 2
    assert os.listdir(tmp_path / "o") == ["b_x4.png"]
    assert "a.png: the model gave values" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--quality", "90"], "png loses nothing"),
        (["--format", "jpeg", "--quality", "0"], "from 1 to 100"),
        (["--max-pixels", "0"], "at least 1"),
        (["--strength", "1.5"], "choose a number from 0"),
        (["--strength", "nan"], "choose a number from 0"),
    ],
)
def test_options_that_make_no_sense(tmp_path, model, flags, words):
    refused([photograph(tmp_path / "a.png")], options(tmp_path / "o", *flags), model, words)


def test_folders_that_cannot_be(tmp_path, model):
    source = photograph(tmp_path / "a.png")
    refused([source], options(source), model, "is no folder")
    refused([source], options(source / "below"), model, "is no folder")
    refused([source], options(""), model, "--out is empty")
    refused(
        [source, tmp_path / f"{'n' * 250}.png"],
        options(tmp_path / "o"),
        model,
        "bytes long, more than 255",
    )


def test_format_and_quality(tmp_path, model):
    source = photograph(tmp_path / "a.png", 64)
    for quality in (30, 95):
        batch.run(
            [source],
            options(tmp_path / str(quality), "--format", "jpeg", "--quality", str(quality)),
            model.prepare,
        )
    low, high = ((tmp_path / q / "a_x4.jpg") for q in ("30", "95"))
    with Image.open(low) as picture:
        assert picture.format == "JPEG"
    assert low.stat().st_size < high.stat().st_size
    tall = tmp_path / "tall.png"
    Image.new("RGB", (16, 4200)).save(tall)
    assert batch.run([tall], options(tmp_path / "w", "--format", "webp"), model.prepare) == 2
    assert not (tmp_path / "w").exists()


def test_the_bound_can_be_raised(tmp_path, model, capsys):
    source = photograph(tmp_path / "a.png", 40)
    assert batch.run([source], options(tmp_path / "o", "--max-pixels", "1599"), model.prepare) == 2
    assert "--max-pixels 1600" in capsys.readouterr().err
    assert batch.run([source], options(tmp_path / "o", "--max-pixels", "1600"), model.prepare) == 0


def test_a_name_that_begins_with_a_dash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photograph(Path("-dash.png"))
    parser = argparse.ArgumentParser()
    parser.add_argument("images", nargs="+", type=Path)
    batch.add_arguments(parser, False)
    found = parser.parse_args(batch.arguments(parser, ["-dash.png", "-o", "out"]))
    assert found.images == [Path("-dash.png")]
    assert found.out == "out"


def test_convert_by_default_or_not(tmp_path, model, capsys):
    Image.new("L", (20, 20), 90).save(tmp_path / "a.png")
    assert batch.run([tmp_path / "a.png"], options(tmp_path / "o"), model.prepare) == 2
    assert "pass --convert" in capsys.readouterr().err
    assert (
        batch.run([tmp_path / "a.png"], options(tmp_path / "o", convert=True), model.prepare) == 0
    )
    with Image.open(tmp_path / "o" / "a_x4.png") as picture:
        assert picture.mode == "L"
    assert (
        batch.run(
            [tmp_path / "a.png"],
            options(tmp_path / "p", "--no-convert", convert=True),
            model.prepare,
        )
        == 2
    )


def test_the_toolkits_command(tmp_path, monkeypatch, capsys):
    """Grey, a profile's absence and two names through `python -m compress.upscale`.

    A refusal is one sentence.
    """
    monkeypatch.setattr(backends, "load_model", lambda path: Repeats())
    Image.new("L", (20, 24), 90).save(tmp_path / "grey.png")
    call = [
        "model.safetensors",
        str(tmp_path / "grey.png"),
        "-o",
        str(tmp_path / "o"),
        "--device",
        "cpu",
    ]
    for flags, code in (([], 2), (["--convert"], 0), (["--convert"], 2)):
        with pytest.raises(SystemExit) as ended:
            upscale.main([*call, *flags])
        assert ended.value.code == code
    with Image.open(tmp_path / "o" / "grey_x4.png") as result:
        assert result.mode == "L"
        assert result.size == (80, 96)
    told = capsys.readouterr().err.splitlines()
    said = [line for line in told if line.startswith("error: ")]
    assert len(said) == 2
    assert "--convert" in said[0]
    assert "not overwritten" in said[1]


def test_strength_of_the_toolkits_command(tmp_path, monkeypatch):
    """1 is what the command gives without it, bit for bit; 0 is the enlargement."""
    monkeypatch.setattr(backends, "load_model", lambda path: Repeats())
    source = photograph(tmp_path / "a.png")
    found = {}
    for strength in (None, "0", "0.5", "1"):
        out = tmp_path / f"o{strength}"
        flags = [] if strength is None else ["--strength", strength]
        with pytest.raises(SystemExit) as ended:
            upscale.main(["m.safetensors", str(source), "-o", str(out), "--device", "cpu", *flags])
        assert ended.value.code == 0
        found[strength] = np.asarray(Image.open(out / "a_x4.png"), dtype=np.float64)
    np.testing.assert_array_equal(found["1"], found[None])
    lr = np.float32(np.asarray(Image.open(source))) / 255
    np.testing.assert_array_equal(found["0"], enlarged(lr.transpose(2, 0, 1), 4))
    assert np.abs(found["0.5"] - (found["0"] + found["1"]) / 2).max() <= 0.5


class Repeats(torch.nn.Module):
    tiling = Tiling()
    wiring = plain()

    def upscale_bytes(self, image: torch.Tensor, images: dict[str, torch.Tensor]) -> np.ndarray:
        assert not images
        return to_uint8(self(image))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.shape[-1] > 200:
            raise UserError("too wide")
        return image.repeat_interleave(4, -1).repeat_interleave(4, -2)


def test_a_users_mistake_in_the_model_fails_one_photograph(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(backends, "load_model", lambda path: Repeats())
    sources = [photograph(tmp_path / "wide.png", 300), photograph(tmp_path / "a.png")]
    with pytest.raises(SystemExit) as ended:
        upscale.main(
            ["model.safetensors", *map(str, sources), "-o", str(tmp_path / "o"), "--device", "cpu"]
        )
    assert ended.value.code == 2
    assert os.listdir(tmp_path / "o") == ["a_x4.png"]
    assert capsys.readouterr().err.endswith(f"\nerror: {sources[0]}: too wide\n")
