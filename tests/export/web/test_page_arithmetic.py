"""The page's arithmetic in JavaScript is that of an exported folder's run.py."""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.host_manifests import MANIFESTS, SCALE, SIZES, networks

from compress.process import strength
from export.targets.host import arithmetic, strips, tiles
from export.targets.web_engine import PAGE

DRIVER = Path(__file__).with_name("arithmetic.mjs")
NODE = shutil.which("node")
RANDOM = np.random.default_rng(0)

pytestmark = pytest.mark.skipif(NODE is None, reason="needs node")


def ask(cases: list[dict[str, Any]]) -> list[bytes]:
    """What the page's modules answer."""
    done = subprocess.run(
        [str(NODE), str(DRIVER), str(PAGE)],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [base64.b64decode(answer) for answer in json.loads(done.stdout)]


def text(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def as_image(array: np.ndarray) -> dict[str, Any]:
    """Of float32 [3, h, w]."""
    return {"data": text(array), "height": array.shape[1], "width": array.shape[2]}


def photograph(height: int, width: int) -> np.ndarray:
    return RANDOM.random((3, height, width), dtype=np.float32)


def floats(answer: bytes, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(answer, np.float32).reshape(shape)


def test_the_enlargement_is_equal():
    images = [photograph(*size) for size in SIZES]
    scales = [SCALE, 2, 3, SCALE, SCALE, SCALE]
    answers = ask(
        [
            {"kind": "enlarge", "lr": as_image(lr), "scale": scale}
            for lr, scale in zip(images, scales, strict=True)
        ]
    )
    for answer, lr, scale in zip(answers, images, scales, strict=True):
        wanted = strips.enlarge(lr, scale)
        assert np.array_equal(floats(answer, wanted.shape), wanted)


@pytest.mark.parametrize("name", strips.CORRECTIONS)
def test_corrections(name):
    cases, wanted = [], []
    for height, width in SIZES:
        lr = photograph(height, width)
        picture = photograph(height * SCALE, width * SCALE) * 1.4 - 0.2
        picture[1] = 0.5  # a channel of one value
        cases.append(
            {
                "kind": "fix",
                "name": name,
                "picture": as_image(picture),
                "lr": as_image(lr),
                "scale": SCALE,
            }
        )
        wanted.append(arithmetic.FIXES[name](picture[None], lr[None], SCALE)[0])
    for answer, expected in zip(ask(cases), wanted, strict=True):
        assert np.abs(floats(answer, expected.shape) - expected).max() < 1e-6


def test_bytes_and_strength_are_equal():
    lr = photograph(9, 7)
    picture = photograph(36, 28) * 1.2 - 0.1
    picture[0, 0, :8] = (np.arange(8) + 0.5) / 255  # halves go to the even neighbour
    result = strips.to_bytes([picture], 36, 28)
    plain = strength.enlarged(lr, SCALE)
    shares = [0.0, 0.3, 0.5, 1.0]
    cases = [{"kind": "bytes", "picture": as_image(picture)}]
    cases += [
        {"kind": "blend", "result": text(result), "plain": text(plain), "strength": share}
        for share in shares
    ]
    shown, *blends = ask(cases)
    pixels = np.frombuffer(shown, np.uint8).reshape(36, 28, 4)
    assert np.array_equal(pixels[..., :3], result)
    assert (pixels[..., 3] == 255).all()
    for answer, share in zip(blends, shares, strict=True):
        mixed = np.frombuffer(answer, np.uint8).reshape(result.shape)
        assert np.array_equal(mixed, strength.blended(result, lr, share, SCALE))


@pytest.mark.parametrize("name", MANIFESTS)
def test_pictures_of_any_size(name):
    said = MANIFESTS[name]
    images = [photograph(*size) for size in SIZES]
    answers = ask([{"kind": "upscale", "manifest": said, "lr": as_image(lr)} for lr in images])
    for answer, lr in zip(answers, images, strict=True):
        wanted = np.concatenate(
            [strip.copy() for strip in tiles.corrected(said, networks(said), lr[None])], axis=1
        )
        assert np.abs(floats(answer, wanted.shape) - wanted).max() < 2e-6


def test_a_picture_that_is_not_finite_is_refused():
    case = {"kind": "refusal", "manifest": MANIFESTS["margin"], "lr": as_image(photograph(8, 8))}
    (answer,) = ask([case])
    assert answer.decode() == "the model gave values that are not finite"
