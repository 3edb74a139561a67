"""An evaluation with references: which are taken, what is told, and what is not mixed up."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.referring import SIDE, referring_nano
from support.tiny_model import tiny

from compress.core.errors import UserError
from compress.core.image import read_image, to_uint8
from compress.data.references import Bank, write
from compress.data.referring import Referrer, folders_of_each, identity, sentence
from compress.recipe.run_files import REFERENCES, read_references
from eval.data.dataset import open_data
from eval.run import main
from eval.score.benchmark import evaluate
from eval.score.knob import evaluate_strengths
from eval.score.options import EvaluateOptions


@pytest.fixture(scope="module")
def model():
    return referring_nano()


@pytest.fixture
def others(tmp_path, photo) -> Path:
    """Three photographs to refer to."""
    folder = tmp_path / "others"
    folder.mkdir()
    for seed in range(3):
        photo(160, 128, seed=10 + seed).save(folder / f"other{seed}.png")
    return folder


@pytest.fixture
def of_each(tmp_path, photo) -> Path:
    """A folder of references for each image of `realsr_like`."""
    folder = tmp_path / "of_each"
    for seed, name in enumerate(("a", "b")):
        (folder / name).mkdir(parents=True)
        photo(96, 96, seed=20 + seed).save(folder / name / f"of_{name}.png")
    return folder


def quiet(**more) -> EvaluateOptions:
    return EvaluateOptions(["psnr"], progress=False, **more)


def test_the_most_similar_patches_are_taken_and_told(model, realsr_like, others, tmp_path):
    data = open_data(realsr_like)
    out = tmp_path / "out"
    options = quiet(references=[others], out=out, save=tmp_path / "made")
    result = evaluate(model, data, options)
    (note,) = result["notes"]
    assert note == (
        "evaluated with references: the patches most like each image, out of 3 photographs (others)"
    )
    rows = read_references(out)
    assert rows.keys() == {"a", "b"}
    for pair in data.pairs:
        chosen = Referrer(model, [others]).of(pair.name, pair.lr())
        assert [(Path(row["file"]).name, row["top"], row["left"]) for row in rows[pair.name]] == [
            (patch.file.name, patch.top, patch.left) for patch in chosen.patches
        ]
        assert rows[pair.name][0]["height"] == SIDE
        with torch.no_grad():
            wanted = to_uint8(model(pair.lr(), images=chosen.kept))
        made = to_uint8(read_image(tmp_path / "made" / f"{pair.name}.png"))
        assert (made == wanted).all()
    without = evaluate(model, data, quiet(out=out))
    assert without["psnr"] != result["psnr"]
    assert without["notes"] == [
        "evaluated without references, though the model takes some; give --references"
    ]
    assert not (out / REFERENCES).exists()


def test_each_image_has_its_own_folder(model, realsr_like, of_each, tmp_path):
    data = open_data(realsr_like)
    assert folders_of_each([of_each]) == of_each
    result = evaluate(model, data, quiet(references=[of_each], out=tmp_path / "out"))
    assert result["notes"] == ["evaluated with references of each image, from of_each"]
    rows = read_references(tmp_path / "out")
    for name in ("a", "b"):
        assert {Path(row["file"]).name for row in rows[name]} == {f"of_{name}.png"}
    shutil.rmtree(of_each / "b")
    result = evaluate(model, data, quiet(references=[of_each]))
    assert result["images"] == 1
    assert "holds no folder 'b'" in result["problems"]["b"]


def test_a_file_of_references_serves_all(model, realsr_like, others, tmp_path):
    data = open_data(realsr_like, limit=1)
    small = data.pairs[0].lr()
    file = tmp_path / "kept.safetensors"
    write(model, Bank(model, sorted(others.iterdir())).like(small), file)
    by_file = evaluate(model, data, quiet(references=[file]))
    assert by_file["psnr"] == evaluate(model, data, quiet(references=[others]))["psnr"]
    assert by_file["notes"] == ["evaluated with the references kept in kept.safetensors"]


def test_cached_images_are_of_the_same_references(model, realsr_like, others, of_each, tmp_path):
    data = open_data(realsr_like)
    common = {"cache": tmp_path / "scores.sqlite", "model_key": "nano"}
    first = evaluate(model, data, quiet(references=[others], out=tmp_path / "1", **common))
    again = evaluate(model, data, quiet(references=[others], out=tmp_path / "2", **common))
    assert again["psnr"] == first["psnr"]
    assert read_references(tmp_path / "1") == read_references(tmp_path / "2")
    assert evaluate(model, data, quiet(**common))["psnr"] != first["psnr"]
    assert evaluate(model, data, quiet(references=[of_each], **common))["psnr"] != first["psnr"]
    before = identity([others])
    Image.new("RGB", (160, 128)).save(others / "other0.png")
    assert identity([others]) != before


def test_the_original_as_reference_is_told(model, realsr_like):
    result = evaluate(model, open_data(realsr_like), quiet(references=[realsr_like / "HR"]))
    assert result["notes"][1].startswith("2 of 2 images referred to their own original")


def test_strengths_and_references_go_together(model, realsr_like, others):
    data = open_data(realsr_like, limit=1)
    full, rows = evaluate_strengths(model, data, quiet(references=[others]), (1.0,))
    assert rows[0]["psnr"] == pytest.approx(full["psnr"])
    assert full["psnr"] != evaluate(model, data, quiet())["psnr"]


def test_mistakes_get_a_sentence(model, realsr_like, others, tmp_path, capsys):
    data = open_data(realsr_like)
    with pytest.raises(UserError, match="takes no references"):
        evaluate(tiny(), data, quiet(references=[others]))
    with pytest.raises(UserError, match="holds restored images"):
        evaluate(realsr_like / "HR", data, quiet(references=[others]))
    with pytest.raises(UserError, match="is no photograph and no folder"):
        evaluate(model, data, quiet(references=[tmp_path / "nowhere"]))
    (tmp_path / "folders" / "one").mkdir(parents=True)
    referrer = Referrer(model, [tmp_path / "folders"])
    with pytest.raises(UserError, match="this photograph is no file"):
        referrer.of("", torch.rand(1, 3, 32, 32))
    words = [str(realsr_like / "HR"), "--data", str(realsr_like), "--references", str(others)]
    with pytest.raises(SystemExit) as ended:
        main([*words, "-o", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "leave it out" in capsys.readouterr().err


def test_what_is_told_of_one_photograph(others):
    assert sentence([others / "other0.png"]).endswith("out of 1 photograph (other0.png)")


def test_a_damaged_file_is_a_sentence(tmp_path):
    (tmp_path / REFERENCES).write_text(json.dumps({"a": [{"file": 3}]}))
    with pytest.raises(UserError, match="evaluate the run again"):
        read_references(tmp_path)
