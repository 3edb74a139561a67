"""Objectives, bounds, and the cheap figure."""

import pytest

from compress.core.errors import UserError
from compress.search.goals import COSTS, broken, costs_of, parse_bounds, parse_objectives
from compress.search.proxy import is_hopeless, rank_correlation
from compress.search.results import MEASURED, result

WANTED = parse_objectives("bytes,psnr")


def test_the_direction_of_a_metric_is_its_own():
    assert [one.higher for one in parse_objectives("bytes,psnr,lpips")] == [False, True, False]


@pytest.mark.parametrize("text", ["bytes,colour", "", "bytes,bytes"])
def test_an_objective_that_is_none(text):
    with pytest.raises(UserError, match="--objective"):
        parse_objectives(text)


def test_bounds_have_units():
    [three_megabytes, ms] = parse_bounds(["bytes<3MB", "latency <= 40ms"])
    assert (three_megabytes.most, ms.most) == (3e6, 40)
    excess, told = broken([three_megabytes], {"bytes": 6e6})
    assert excess == 1
    assert told == "bytes<3MB: it has 6e+06"
    assert broken([three_megabytes], {"bytes": 3e6}) == (0, "")


@pytest.mark.parametrize("text", ["bytes", "bytes>3", "psnr<3", "bytes<0", "bytes<1.2.3"])
def test_a_bound_that_is_none(text):
    with pytest.raises(UserError, match="--constraint"):
        parse_bounds([text])


def test_every_cost_is_counted(random_nano):
    from compress.cost.count import measure

    found = costs_of(measure(random_nano, (64, 64)), "Galaxy S24")
    assert found.keys() == COSTS.keys()
    assert all(value > 0 for value in found.values())


def point(size, proxy, psnr):
    return result(MEASURED, costs={"bytes": size}, metrics={"psnr": psnr}, proxy={"1": proxy})


def test_a_point_is_hopeless_beside_three_that_cost_no_more():
    earlier = [point(size, 30 + size, 20) for size in (1, 2, 3, 4)]
    assert "4 points cost no more" in is_hopeless(WANTED, {"bytes": 4}, {"1": 30}, earlier)
    assert not is_hopeless(WANTED, {"bytes": 2}, {"1": 30}, earlier)  # two cost no more
    assert not is_hopeless(WANTED, {"bytes": 4}, {"1": 32}, earlier)
    assert not is_hopeless(WANTED, {"bytes": 4}, {}, earlier)


def test_the_rank_correlation_of_the_proxy():
    rising = [point(1, number, number**2) for number in range(5)]
    assert rank_correlation(rising, "psnr", higher=True) == pytest.approx(1)
    assert rank_correlation(rising, "psnr", higher=False) == pytest.approx(-1)
    assert rank_correlation(rising[:3], "psnr", higher=True) is None
    assert rank_correlation([point(1, 2, 3)] * 9, "psnr", higher=True) is None
