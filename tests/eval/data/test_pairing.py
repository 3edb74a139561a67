"""Restored images by the names that compress.upscale gives them."""

import pytest

from compress.core.errors import UserError
from eval.data.dataset import open_data
from eval.data.pairing import restored_images
from eval.score.benchmark import evaluate
from eval.score.options import EvaluateOptions


@pytest.fixture
def restored(tmp_path, photo):
    def make(*names):
        folder = tmp_path / "restored"
        folder.mkdir()
        for i, name in enumerate(names):
            photo(128, 96, seed=i).save(folder / name)
        return folder

    return make


def test_names_as_upscale_writes_them(restored, realsr_like):
    folder = restored("a_x4.png", "b_x4.png")
    result = evaluate(folder, open_data(realsr_like), EvaluateOptions(["psnr-rgb"], progress=False))
    assert result["images"] == 2
    assert not result["problems"]
    assert result["psnr-rgb"] > 40


def test_exact_names_and_upscaled_ones_together(restored):
    folder = restored("a.png", "b_x4.png", "c_x4_x4.png", "other.png")
    found, problems = restored_images(folder, {"a", "b", "c_x4"})
    assert {name: path.name for name, path in found.items()} == {
        "a": "a.png",
        "b": "b_x4.png",
        "c_x4": "c_x4_x4.png",
        "other": "other.png",
    }
    assert not problems


def test_an_image_of_its_own_that_ends_so_is_nobody_elses(restored):
    found, problems = restored_images(restored("a_x4.png"), {"a", "a_x4"})
    assert found.keys() == {"a_x4"}
    assert not problems


def test_two_candidates_are_a_sentence(restored, realsr_like):
    folder = restored("a.png", "a_x4.png", "b.png")
    result = evaluate(folder, open_data(realsr_like), EvaluateOptions(["psnr-rgb"], progress=False))
    assert result["images"] == 1
    assert "a.png and a_x4.png may both be the restored image of 'a'" in result["problems"]["a"]


def test_all_ambiguous(restored, realsr_like):
    folder = restored("a.png", "a_x4.png", "b_x4.png", "b_x4.jpg")
    with pytest.raises(
        UserError, match=r"none of 2 images could be measured; the first, a: .*may both be"
    ):
        evaluate(folder, open_data(realsr_like), EvaluateOptions(["psnr-rgb"], progress=False))
