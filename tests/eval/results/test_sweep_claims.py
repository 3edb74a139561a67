"""The verdicts on claims of a survey, from points that are known."""

from types import SimpleNamespace

import pytest

from compress.search.snapshot import Ended
from compress.search.techniques import Group
from eval.results.measurements import sweep

BEFORE = {"psnr": 26.0, "lpips-squeeze": 0.25}


def point(number, size, psnr, lpips, macs=1.0):
    figures = {"bytes": size, "psnr": psnr, "lpips-squeeze": lpips, "macs": macs}
    return Ended(number, {}, figures)


def study(*groups):
    made = [Group(name, tuple(points)) for name, points in groups]
    return SimpleNamespace(groups=made, points=[one for group in made for one in group.points])


@pytest.mark.parametrize(
    ("psnr", "lpips", "verdict"),
    [(25.9, 0.255, "confirmed"), (25.5, 0.255, "refuted"), (25.9, 0.27, "refuted")],
)
def test_a_fifth_of_the_bytes(psnr, lpips, verdict):
    near = study(("bits", [point(0, 2.0, psnr, lpips), point(1, 9.0, 30, 0.1)]))
    found, figures = sweep.nearly_free(near, {}, 10.0, BEFORE)
    assert found == verdict
    assert figures.startswith("the best of 1 points loses")
    assert sweep.nearly_free(near, {}, 90.0, BEFORE)[0] == "not decided"


def thresholds(psnr, lpips):
    def one(low, high):
        return {"threshold": {"size": (low + high) / 2 if low else None, "low": low, "high": high}}

    return {"metrics": {"psnr": one(*psnr), "lpips-squeeze": one(*lpips)}}


@pytest.mark.parametrize(
    ("psnr", "lpips", "verdict"),
    [
        ((1, 2), (3, 4), "confirmed"),
        ((3, 4), (1, 2), "refuted"),
        ((1, 3), (2, 4), "not decided"),
        ((1, 3), (None, None), "not decided"),
    ],
)
def test_which_metric_falls_first(psnr, lpips, verdict):
    assert sweep.perception_first(None, thresholds(psnr, lpips), 8.0, {})[0] == verdict


def test_a_combination_beats_all_or_not():
    def said(*shares):
        rows = [{"combination": "bits + prune", "share": share} for share in shares]
        return {"metrics": {"psnr": {"beaten": rows}, "lpips-squeeze": {"beaten": rows[:1]}}}

    assert sweep.they_add_up(None, said(1.0, 1.0), 0, {})[0] == "confirmed"
    found, figures = sweep.they_add_up(None, said(1.0, 0.4), 0, {})
    assert (found, figures) == (
        "refuted",
        "bits + prune beats 40% at least of each single technique's points",
    )
    assert sweep.they_add_up(None, said(), 0, {})[0] == "not decided"


def test_what_a_decoder_loses_for_what_it_saves():
    source = ("none", [point(0, 9, 26, 0.25, macs=10)])
    light = ("decoder", [point(1, 8, 26, 0.26, macs=5)])
    fewer = ("prune", [point(2, 5, 26, 0.30, macs=5)])
    assert sweep.decoder_first(study(source, light, fewer), {}, 0, BEFORE) == (
        "confirmed",
        "LPIPS for all of the MACs: decoder +0.0200, prune +0.1000",
    )
    assert sweep.decoder_first(study(source, fewer), {}, 0, BEFORE)[0] == "not decided"


def test_a_study_has_its_commands():
    jobs = sweep.sweeps(sweep.Short(limit=2, steps=3))
    assert [job.key for job in jobs] == ["osediff_nano", "adcsr_nano", "edge_nano"]
    words = jobs[0].commands[0]
    assert "passes.5.steps=3" in words
    assert words[words.index("--trials") + 1] == "2"
    assert sum(trials for _, _, trials, _ in sweep.STUDIES) > 200
