"""Crops with references of the same scene: apart from the crop, and the same again."""

import numpy as np
import pytest
import torch
from PIL import Image

from compress.core.errors import UserError
from compress.data.scenes import SceneCrops, is_apart


@pytest.fixture
def files(tmp_path):
    """Two photographs of 160x100 whose pixels say where they are, and which they are of."""
    for index in range(2):
        rows, columns = np.mgrid[:100, :160]
        pixels = np.stack([rows, columns, np.full_like(rows, 100 * index)], -1)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{index}.png")
    return [tmp_path / "0.png", tmp_path / "1.png"]


def where(square: torch.Tensor) -> tuple[int, int, int]:
    """First row, first column, and photograph."""
    return tuple((square[:, 0, 0] * 255).round().int().tolist())


def test_references_are_of_the_scene_and_beside_the_crop(files):
    crops = SceneCrops(files, 64, 32, 3, 0.0, 30, seed=1)
    for crop, references in (crops[i] for i in range(len(crops))):
        assert crop.shape == (3, 64, 64)
        assert references.shape == (3, 3, 32, 32)
        *place, scene = where(crop)
        for reference in references:
            *at, of = where(reference)
            assert of == scene
            assert is_apart(tuple(place), 64, tuple(at), 32)


def test_foreign_ones_are_of_another_photograph(files):
    crops = SceneCrops(files, 64, 32, 2, 1.0, 8, seed=1)
    for crop, references in (crops[i] for i in range(len(crops))):
        assert {where(reference)[2] for reference in references} == {100 - where(crop)[2]}


def test_an_item_depends_on_its_number_alone(files):
    first, again = (SceneCrops(files, 64, 32, 2, 0.5, 5, seed=2) for _ in range(2))
    _ = again[0]
    for one, other in zip(first[3], again[3], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first[3][0], first[4][0])


def test_a_photograph_without_room_is_named(files):
    with pytest.raises(UserError, match=r"160x100 pixels hold no crop of 64 beside .* of 100"):
        _ = SceneCrops(files, 64, 100, 1, 0.0, 1, seed=0)[0]
