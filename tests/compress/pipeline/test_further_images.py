"""A model that takes a second image: by compress.upscale, from Python, by the run's ONNX files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.parted_model import EXPORT, REFERENCE, parted
from support.shared_exports import exported_once

from compress import api, upscale
from compress.core.errors import UserError
from compress.core.image import read_image
from compress.model.sr_model import SRModel
from compress.photographs.further import FurtherImages
from compress.photographs.problem import PhotographError
from compress.pipeline import backends
from compress.pipeline.backends import choose_backend

SIZES = {"reference": REFERENCE}


@pytest.fixture(scope="module")
def model() -> SRModel:
    return parted()


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """Two photographs, a reference for both, and a folder with one of its own for each."""
    random = np.random.default_rng(0)

    def picture(name: str, height: int, width: int) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(path)

    picture("a.png", 32, 32)
    picture("b.png", 32, 32)
    picture("reference.png", *REFERENCE)
    picture("references/a.bmp", *REFERENCE)
    picture("references/b.png", *REFERENCE)
    picture("references/b.bmp", *REFERENCE)
    picture("small/a.png", 20, 20)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, model: SRModel, *words: str) -> int:
    monkeypatch.setattr(backends, "load_model", lambda path: model)
    with pytest.raises(SystemExit) as ended:
        upscale.main(["model.safetensors", "a.png", "b.png", "--device", "cpu", *words])
    return ended.value.code


def result(folder: str, name: str) -> np.ndarray:
    return np.asarray(Image.open(Path(folder) / f"{name}_x4.png"))


def levels_apart(a: np.ndarray, b: np.ndarray) -> int:
    """The largest difference of two pictures, of 255."""
    return int(np.abs(a.astype(int) - b).max())


def test_one_file_for_all_photographs(model, files, monkeypatch):
    assert run(monkeypatch, model, "--image", "reference=reference.png", "-o", "all") == 0
    for name in ("a", "b"):
        expected = api.upscale(model, f"{name}.png", {"reference": "reference.png"})
        assert levels_apart(result("all", name), expected) <= 1


def test_a_folder_with_one_for_each(model, files, monkeypatch):
    assert run(monkeypatch, model, "--image", "reference=references", "-o", "each") == 0
    for name, reference in (("a", "references/a.bmp"), ("b", "references/b.png")):
        expected = api.upscale(model, f"{name}.png", {"reference": read_image(reference)})
        assert levels_apart(result("each", name), expected) <= 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "also takes the image 'reference', 32x24 pixels; give it with --image reference=FILE"),
        (["reference"], "--image reference: write NAME=FILE or NAME=FOLDER"),
        (["=a.png"], "write NAME=FILE or NAME=FOLDER"),
        (["mask=a.png"], "--image mask: this model takes no such image; it takes reference"),
        (["reference=a.png"], "a.png has 32x32 pixels and the image 'reference' has 32x24; resize"),
        (["reference=none.png"], "none.png: no such"),
        (["reference=reference.png", "reference=a.png"], "--image reference is given twice"),
        (["reference=small"], "small: the folder holds no file for b.png; call it b with any"),
    ],
)
def test_a_mistake_is_one_sentence(files, given, said):
    with pytest.raises(PhotographError) as told:
        FurtherImages(given, SIZES, [Path("a.png"), Path("b.png")])
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_two_files_for_one_photograph(files):
    Path("references/a.webp").touch()
    with pytest.raises(PhotographError, match=r"a\.bmp and a\.webp are both for a\.png; keep one"):
        FurtherImages(["reference=references"], SIZES, [Path("a.png")])


def test_a_model_of_one_image_takes_none(files):
    with pytest.raises(PhotographError, match="takes no such image; it takes none"):
        FurtherImages(["reference=reference.png"], {}, [Path("a.png")])


def test_the_command_ends_with_2(model, files, monkeypatch, capsys):
    assert run(monkeypatch, model) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: this model also takes")
    assert not Path("upscaled").exists()


def test_a_bad_one_fails_one_photograph(model, files, monkeypatch, capsys):
    Image.new("RGB", (20, 20)).save("small/b.png")
    Image.open("reference.png").save("small/a.png")
    assert run(monkeypatch, model, "--image", "reference=small", "-o", "some") == 2
    assert [path.name for path in Path("some").iterdir()] == ["a_x4.png"]
    assert "b.png has 20x20 pixels" in capsys.readouterr().err


def test_a_router_sees_one_image(model, files, monkeypatch, capsys):
    words = ("--image", "reference=reference.png", "--route", "router.safetensors")
    assert run(monkeypatch, model, *words) == 2
    assert "--image and --route exclude each other" in capsys.readouterr().err


@pytest.mark.slow
def test_the_runs_onnx_files_take_it_too(model, files, tmp_path_factory):
    Path("run").mkdir()
    Path("run/model.safetensors").write_bytes(b"parted")
    exported_once(tmp_path_factory, "parted", model, Path("run/onnx"), EXPORT)
    backend = choose_backend("run")
    assert backend.name == "onnxruntime"
    assert dict(backend.images) == {"reference": list(REFERENCE)}
    lr = read_image("a.png")
    reference = read_image("reference.png")
    found = backend.upscale(lr.numpy(), {"reference": reference.numpy()})
    expected = model.upscale_bytes(lr, images={"reference": reference})
    assert levels_apart(found, expected) <= 5  # tiles of 32 pixels, and not one piece


def test_from_python_a_mistake_is_told(model, files):
    with pytest.raises(UserError, match="also takes the image 'reference'; give it"):
        api.upscale(model, torch.rand(1, 3, 32, 32))
