"""The functions of compress.api, on the smallest work that shows them."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_model import tiny

from compress import api
from compress.core.errors import UserError
from compress.recipe.recipe import parse_recipe

FOLD = parse_recipe(
    {
        "name": "fold",
        "source": {"family": "osediff", "size": "nano"},
        "passes": [{"pass": "strip", "text": "constant", "timestep": "fold"}],
        "export": [],
        "eval": {"data": ["embedded"], "metrics": ["psnr"]},
    },
    "a test",
)


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    return api.compress(FOLD, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def pixels():
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (16, 20, 3), dtype=np.uint8)


def test_compress_runs_the_passes_of_a_recipe(folded):
    assert folded.model.text_encoder is None
    assert len(folded.entries) == 1
    assert folded.costs[0][0] == "source"


def test_upscale_takes_files_images_arrays_and_tensors(folded, pixels, tmp_path):
    file = tmp_path / "photo.png"
    image = Image.fromarray(pixels)
    image.save(file)
    tensor = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)
    results = [api.upscale(folded.model, form) for form in (file, image, pixels, tensor)]
    assert results[0].shape == (64, 80, 3)
    assert results[0].dtype == np.uint8
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_upscale_refuses_an_array_of_another_kind(folded, pixels):
    with pytest.raises(UserError, match="float64"):
        api.upscale(folded.model, pixels / 255)


def test_overrides_are_for_files():
    with pytest.raises(UserError, match="overrides"):
        api.compress(FOLD, ["seed=1"])


@pytest.mark.slow
def test_export_writes_a_verified_folder(tmp_path):
    folder = api.export(tiny(), tmp_path / "out", components=("encoder",), lr_size=(32, 32))
    assert (folder / "encoder.onnx").is_file()
    assert (folder / "manifest.json").is_file()


@pytest.mark.slow
def test_evaluate_returns_means(folded):
    means = api.evaluate(folded.model, metrics=["psnr"], limit=1)
    assert means["images"] == 1
    assert 15 < means["psnr"] < 40
