"""What a graph has to reach: the rules, on numbers."""

import pytest

from export.parity.measure import Noise
from export.parity.rules import code_limit, float_limit, simulation_limit


@pytest.mark.parametrize(
    ("noise", "of_one_colour", "limit"),
    [
        (None, False, 80.0),
        (None, True, 80.0),
        (Noise(60.0, 50.0), False, 40.0),
        (Noise(35.0, 20.0), False, 32.0),
        (Noise(35.0, 20.0), True, 17.0),
        (Noise(20.0, 35.0), True, 17.0),
        (Noise(None, 20.0), False, 40.0),
        (Noise(None, None), True, 40.0),
    ],
)
def test_a_simulation_is_no_nearer_than_to_itself(noise, of_one_colour, limit):
    assert simulation_limit(noise, of_one_colour) == limit


@pytest.mark.parametrize(("counts", "limit"), [(True, 45.0), (False, 0.0)])
def test_floats_reach_the_threshold_where_they_count(counts, limit):
    assert float_limit(45.0, counts) == limit


@pytest.mark.parametrize(
    ("counts", "is_photograph", "limit"),
    [(True, True, 30.0), (True, False, 0.0), (False, True, 0.0), (False, False, 0.0)],
)
def test_codes_reach_it_on_photographs(counts, is_photograph, limit):
    assert code_limit(30.0, counts, is_photograph) == limit
