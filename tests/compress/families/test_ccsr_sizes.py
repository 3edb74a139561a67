"""CCSR 1's images around the model: the authors resize them by Pillow, where a model here pads.

These are the images that the authors' model is fed; what it makes of such is in test_ccsr.py.
"""

import math

import numpy as np
import pytest
from PIL import Image
from support.golden import Golden

from compress.process.resample import SCALE

BLOCK = 64  # pixels that sides of the authors' images are multiples of
SIZES = {
    "floor": lambda side: side // BLOCK * BLOCK,
    "up": lambda side: (side // BLOCK + 1) * BLOCK,  # also of a multiple
}


@pytest.fixture(scope="module")
def golden(shared) -> Golden:
    return Golden(shared / "golden", "ccsr_v1")


def steps(picture: np.ndarray, short: int, rule: str) -> dict[str, Image.Image]:
    """The authors' images, from that of LR bytes [h, w, 3] on."""
    image = Image.fromarray(picture)
    size = (math.ceil(image.width * SCALE), math.ceil(image.height * SCALE))
    up = image.resize(size, Image.Resampling.BICUBIC)
    least = up
    if min(up.size) < short:
        factor = short / min(up.size)
        wanted = (math.ceil(up.width * factor), math.ceil(up.height * factor))
        least = up.resize(wanted, Image.Resampling.BICUBIC)
    width, height = (SIZES[rule](side) for side in least.size)
    control = least.resize((width, height), Image.Resampling.LANCZOS)
    back = control.resize(up.size, Image.Resampling.LANCZOS)
    return {"up": up, "short": least, "control": control, "back": back}


@pytest.mark.parametrize("case", ["d", "e"])
def test_version_1_resizes_as_the_authors(golden, case):
    facts = golden.facts["cases"][case]
    lr = golden[f"inputs.{case}.lr"].numpy()
    assert (lr.shape[1], lr.shape[0]) == tuple(facts["lr_size_wh"])
    found = steps(lr, facts["short_side"], facts["rule"])
    for name, size in facts["sizes_wh"].items():
        assert found[name].size == tuple(size)
    for name, image in found.items():
        assert np.array_equal(np.array(image), golden[f"outputs.{case}.{name}"].numpy()), name
