"""No frame.

The outermost pixels of a small picture are as near to those of a larger one as the pixels inside.
"""

from dataclasses import replace

import pytest
from bench.bench_frame import errors

from compress.families import FAMILIES
from compress.model.sr_model import MARGIN


# Those that come with weights: random ones say nothing of borders.
@pytest.mark.parametrize("family", ["osediff", "adcsr", "resshift", "edge_sd_sr"])
def test_no_frame(family):
    source = FAMILIES[family]()
    model = source.build()
    source.load(model)
    assert model.tiling.margin == MARGIN
    model.tiling = replace(
        model.tiling, colour_fix=None
    )  # the larger picture may be of several tiles
    assert errors(model, 96)["ratio"] <= 1.35
    model.tiling = replace(model.tiling, margin=0)
    assert errors(model, 96)["ratio"] > 1.36
