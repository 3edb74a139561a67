"""No frame: the outermost pixels of a small picture are as near to those of a larger one as the pixels inside.

Without colour correction, whose statistics are those of the whole picture: on a gradient its contrast is a little other
in a small one, which errs at both ends of the gradient. tests/bench/bench_frame.py measures with it.
"""

from dataclasses import replace

import pytest
from bench.bench_frame import errors

from compress.model import MARGIN
from compress.sources import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_no_frame(family):
    source = FAMILIES[family]()
    model = source.build()
    source.load(model)
    assert model.tiling.margin == MARGIN
    model.colour_fix = "none"
    assert errors(model, 64)["ratio"] <= 1.2
    model.tiling = replace(model.tiling, margin=0)
    assert errors(model, 64)["ratio"] > 1.3
