"""No frame.

The outermost pixels of a small picture are as near to those of a larger one as the pixels inside.
"""

from dataclasses import replace

import pytest
from bench.bench_frame import errors

from compress.families import FAMILIES
from compress.model.sr_model import MARGIN


@pytest.mark.slow
# Those that come with weights: random ones say nothing of borders. One whose codes differ inside as
# well, and one whose do not, are enough for `make test`.
@pytest.mark.parametrize(
    "family",
    [
        "osediff",
        "resshift",
        pytest.param("adcsr", marks=pytest.mark.exhaustive),
        pytest.param("edge_sd_sr", marks=pytest.mark.exhaustive),
    ],
)
def test_no_frame(family):
    source = FAMILIES[family]()
    model = source.build()
    source.load(model)
    assert model.tiling.margin == MARGIN
    model.tiling = replace(
        model.tiling, colour_fix=None
    )  # the larger picture may be of several tiles
    with_margin = errors(model, 96)
    model.tiling = replace(model.tiling, margin=0)
    without = errors(model, 96)
    # Less than one of 255 levels more than inside: no eye sees it.
    assert with_margin["ring"] - with_margin["inside"] < 1
    assert without["truth"] > 1.5 * with_margin["truth"]
    if family != "resshift":  # its codes differ between the two pictures inside as well
        assert without["ring"] - without["inside"] > 1
