"""The picture of size against quality is of the rows that results have now."""

import pytest

from eval.reporting.points import front
from eval.results import size_quality
from eval.results.pages import Pages
from eval.results.provenance import RESULTS, ROOT
from eval.results.registry import MEASUREMENTS

ROWS = [
    {"recipe": "`small`", "equivalents_m": 0.5, "lpips-squeeze": 0.25},
    {"recipe": "`spandrel_w8a8`", "equivalents_m": 0.3, "lpips-squeeze": 0.2},
]
MODELS = [
    {"model": "bicubic (Pillow)", "lpips-squeeze": 0.37},
    {"model": "`a_nano`", "equivalents_m": 4.0, "lpips-squeeze": 0.24},
]


@pytest.fixture
def chosen():
    return size_quality.selection({"recipes": {"rows": ROWS}, "models": {"rows": MODELS}})


def test_the_committed_picture_is_of_the_committed_rows():
    pages = Pages(MEASUREMENTS, ROOT, ROOT / RESULTS)
    now = size_quality.selection(pages.data)
    assert size_quality.is_current(now, ROOT / size_quality.PICTURE)


def test_what_stands_in_it(chosen):
    ours = {point.label: (point.x, point.y) for point in chosen.points if point.ours}
    assert ours == {"small": (0.5, 0.25), "GAN 1.21M W8A8": (0.3, 0.2), "a_nano": (4.0, 0.24)}
    assert [point.label for point in front(chosen.points, higher=False)] == ["GAN 1.21M W8A8"]
    assert "GAN 1.21M" in {point.label for point in chosen.points if not point.ours}
    assert size_quality.selection({}) is None


def test_a_picture_of_other_rows_is_drawn_again(chosen, tmp_path):
    file = tmp_path / "picture.png"
    assert not size_quality.is_current(chosen, file)
    size_quality.write(chosen, file)
    assert size_quality.is_current(chosen, file)
    other = size_quality.selection({"recipes": {"rows": ROWS[:1]}})
    assert not size_quality.is_current(other, file)
