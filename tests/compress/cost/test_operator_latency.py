"""The table of operators: what it is fitted to, its interval, and where it has no ground."""

import math

import pytest
import torch
from bench.phone_networks import compact
from scipy import stats

from compress.cost import operators
from compress.cost.cost import Arithmetic, Cost, Layer
from compress.cost.count import measure_module

LIKE = operators.networks()["Real-ESRGAN x4plus"]  # counts of a network that was published


def layer(kind: str, macs: int, **more: int) -> Layer:
    bits = {"fp16": (32, 32, True), "W8A16": (8, 16, False), "W8A8": (8, 8, False)}[kind]
    return Layer("denoiser.a", "Conv2d", macs_conv=macs, arithmetic=Arithmetic(*bits), **more)


def test_published_latencies_are_met_within_a_tenth():
    found = operators.fitted()
    for point in operators.published():
        table = {point.kind: operators.networks()[point.network]}
        assert found.ms(table, point.device) == pytest.approx(point.ms, rel=0.1)
    assert found.slowness[operators.REFERENCE] == 1
    assert found.slowness["Galaxy S23"] > 1 > found.slowness["Snapdragon 8 Elite Gen 5"]
    assert min(found.per_gmac.values()) > 0


def test_a_known_formula_is_found_again():
    rates = {"fp16": 0.2, "W8A16": 0.1, "W8A8": 0.05}
    made = operators.Fit(rates, 3.0, {"Galaxy S24": 1.0, "X": 2.0})
    points = [
        operators.Published(p.network, p.kind, device, made.ms({p.kind: row}, device))
        for p in operators.published()
        for device in made.slowness
        for row in [operators.networks()[p.network]]
    ]
    found = operators.fit(points)
    assert found.per_gmac == pytest.approx(made.per_gmac, rel=1e-3)
    assert found.per_gb == pytest.approx(3.0, rel=1e-3)
    assert found.slowness == pytest.approx(made.slowness, rel=1e-3)


def test_the_interval_is_wider_than_the_errors_that_it_stands_for():
    errors = operators.unseen_errors()
    assert 1.1 < operators.factor() < 2
    inside = [abs(error) <= math.log(operators.factor()) for error in errors]
    assert sum(inside) / len(inside) >= operators.COVERED
    for freedom, quantile in operators.STUDENT.items():
        assert quantile == pytest.approx(stats.t.ppf(0.95, freedom), abs=5e-4)


def test_counts_are_split_by_precision():
    layers = (
        layer("fp16", 5, params=3, activation_bytes=40),
        layer("W8A8", 7, params=2, activation_bytes=8),
    )
    table = operators.by_precision(Cost((128, 128), layers))
    assert table["W8A8"] == {"macs": 7, "macs_attention": 0, "weights": 2, "values": 2}
    assert operators.moved_gb(table["fp16"], "fp16") == pytest.approx((3 + 10) * 2e-9)
    assert operators.moved_gb(table["W8A8"], "W8A8") == pytest.approx((2 + 2) * 1e-9)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"macs_attention": 0.2 * LIKE["macs"]}, "20% of the products at fp16 are attention's"),
        ({"values": 50 * LIKE["values"]}, "MACs for each byte moved at fp16"),
        ({key: LIKE[key] / 100 for key in ("macs", "values", "weights")}, "2.9 GMACs, and 19.8"),
    ],
)
def test_where_there_is_no_ground(changes, said):
    found = operators.gaps({"fp16": {**LIKE, **changes}})
    assert len(found) == (said is not None)
    assert said is None or said in found[0]
    lines = operators.as_lines({"fp16": {**LIKE, **changes}})
    assert any("no ground" in line for line in lines) == (said is not None)
    assert sum("between" in line for line in lines) == 4


def test_a_precision_of_few_milliseconds_takes_no_ground_away():
    little = {**LIKE, "macs": 1e6, "values": 1e6, "weights": 1e3}
    assert "MACs for each byte" in operators.gaps({"fp16": little})[0]
    assert operators.weighty({"fp16": little, "W8A8": LIKE}) == ["W8A8"]
    assert operators.gaps({"fp16": little, "W8A8": LIKE}) == []


def test_nothing_is_predicted_of_nothing():
    assert "nothing to predict" in operators.as_lines({})[1]


def test_the_table_of_networks_is_what_the_script_counts():
    with torch.device("meta"):
        network = compact()
        image = torch.empty(1, 3, 128, 128)
    found = operators.counts(measure_module(network, image, name="network"))
    assert found == operators.networks()["realesr-general-x4v3"]
