"""The C++ header's arithmetic is that of an exported folder's run.py."""

from typing import Any

import numpy as np
import pytest
from support.compiled_kit import COMPILER, Kit
from support.host_manifests import (
    MANIFESTS,
    READS,
    SCALE,
    SIZES,
    manifest,
    networks,
)

from compress.process import strength
from export.targets.host import arithmetic, strips, tiles

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs g++ or clang++")

KEPT = {"kept": [1, 3, 32, 32]}
REFERENCES = {"places": 2, "size": [64, 64], "kept": KEPT, "made_by": "x"}
ALL: dict[str, dict[str, Any]] = {
    **MANIFESTS,
    "whole": manifest((16, 24), "wavelet", reads={"model": ["lr"]}, makes={"model": ["sr"]}),
    "whole tile": manifest(
        (8, 8), "adain", reads={"model": ["lr"]}, makes={"model": ["sr"]}, margin=0
    ),
    "references": manifest(
        (32, 32), "wavelet", reads={**READS, "encoder": ["lr", "kept"]}, references=REFERENCES
    ),
    "wide margin": manifest((24, 40), "adain", align=16, margin=20, overlap=7),
}
TOLERANCE = 1e-6
MANY = 200
MOST_SIDE = 150


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> Kit:
    return Kit(tmp_path_factory.mktemp("kit"), ALL)


def check(kit: Kit, name: str, lr: np.ndarray, share: float) -> None:
    """Floats within TOLERANCE; bytes equal but where a float is that near to a half."""
    said = ALL[name]
    rows = tiles.corrected(said, networks(said), lr[None])
    wanted = np.concatenate([strip.copy() for strip in rows], axis=1)
    floats, pixels = kit.upscale(name, lr, share)
    assert np.abs(floats - wanted).max() <= TOLERANCE
    height, width = wanted.shape[1:]
    result = strips.to_bytes([floats], height, width)
    assert np.array_equal(pixels, strength.blended(result, lr, share, SCALE))
    python = strength.blended(strips.to_bytes([wanted], height, width), lr, share, SCALE)
    differing = np.abs(pixels.astype(int) - python)
    assert differing.max() <= 1
    assert differing.mean() < 1e-4


def photograph(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).random((3, height, width), dtype=np.float32)


@pytest.mark.parametrize("name", ALL)
def test_pictures_of_any_size(kit, name):
    for number, size in enumerate([*SIZES, (8, 8), (16, 24)]):
        check(kit, name, photograph(number, *size), [1.0, 0.35, 0.0][number % 3])


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(MANY))
def test_random_sizes_and_strengths(kit, seed):
    random = np.random.default_rng(seed)
    height, width = random.integers(2, MOST_SIDE, 2)
    name = list(ALL)[seed % len(ALL)]
    check(kit, name, photograph(seed, height, width), round(random.random(), 3))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_enlargement_is_equal(kit, scale):
    for size in SIZES:
        lr = photograph(1, *size)
        made = np.empty((3, size[0] * scale, size[1] * scale), np.float32)
        assert kit.call("kit_enlarge", lr, *size, scale, made) is None
        assert np.array_equal(made, strips.enlarge(lr, scale))


@pytest.mark.parametrize("name", strips.CORRECTIONS)
def test_corrections(kit, name):
    for height, width in SIZES:
        lr = photograph(2, height, width)
        picture = photograph(3, height * SCALE, width * SCALE) * 1.4 - 0.2
        picture[1] = 0.5  # a channel of one value
        wanted = arithmetic.FIXES[name](picture[None], lr[None], SCALE)[0]
        assert kit.call("kit_correct", name, picture, lr, height, width, SCALE) is None
        assert np.abs(picture - wanted).max() <= TOLERANCE


def test_an_unknown_correction_is_refused(kit):
    lr, picture = photograph(0, 2, 2), photograph(0, 8, 8)
    said = kit.call("kit_correct", "sepia", picture, lr, 2, 2, SCALE)
    assert said == "the colour correction 'sepia' is unknown"


def test_bytes_are_equal(kit):
    picture = photograph(4, 36, 28) * 1.2 - 0.1
    picture[0, 0, :8] = (np.arange(8) + 0.5) / 255  # halves go to the even neighbour
    pixels = np.empty((36, 28, 3), np.uint8)
    assert kit.call("kit_bytes", picture, 36, 28, pixels) is None
    assert np.array_equal(pixels, strips.to_bytes([picture], 36, 28))


@pytest.mark.parametrize("channels", [3, 4])
def test_bytes_become_floats(kit, channels):
    """Of rows that are padded, as a phone's bitmaps are, with alpha or without."""
    stored = np.random.default_rng(5).integers(0, 256, (9, 8 * channels), np.uint8)
    pixels = stored[:, : 7 * channels].reshape(9, 7, channels)
    made = np.empty((3, 9, 7), np.float32)
    assert kit.call("kit_floats", stored, 9, 7, channels, stored.shape[1], made) is None
    wanted = (pixels[..., :3] / np.float32(255)).transpose(2, 0, 1)
    assert np.array_equal(made, wanted)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_strength_outside_is_refused(kit, share):
    result = np.zeros((8, 8, 3), np.uint8)
    said = kit.call("kit_blend", result, photograph(0, 2, 2), 2, 2, SCALE, share)
    assert said == "strength is a number from 0 to 1"


def test_values_that_are_not_finite_are_refused(kit):
    with pytest.raises(RuntimeError, match="the model gave values that are not finite"):
        kit.upscale("no margin", photograph(0, 40, 40), fault="infinite")


def test_a_picture_can_be_cancelled(kit):
    with pytest.raises(RuntimeError, match="cancelled"):
        kit.upscale("no margin", photograph(0, 40, 40), fault="cancel")
