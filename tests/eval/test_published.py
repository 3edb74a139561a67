"""The papers' figures.

Every one that the reference tables have, agreement between sources, and the NTIRE formula.
"""

import csv
from collections import defaultdict

import pytest

from eval import published
from eval.metric import ntire
from eval.metric.metrics import METRICS


def reference(shared, name):
    with (shared / "published" / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_reference_figure_is_there(shared):
    for row in reference(shared, "models"):
        bicubic = row["model"].startswith("PassionSR") and row["dataset"] == "DIV2K"
        dataset = "DIV2K-bicubic" if bicubic else row["dataset"]
        found = [
            r
            for r in published.rows("quality")
            if (r["model"], r["dataset"], r["protocol"], r["source"])
            == (row["model"], dataset, row["protocol"], row["source"])
        ]
        assert len(found) == 1, row
        assert float(found[0][row["metric"].lower()]) == float(row["value"]), row


def test_every_reference_cost_is_there(shared):
    for row in reference(shared, "cost"):
        found = next(r for r in published.rows("cost") if r["model"] == row["model"])
        for column in ("base", "steps", "params_m", "trained_m", "macs_g", "source"):
            assert found[column] == row[column], (row["model"], column)
        assert found["input"] == ("64-256" if row["input"].startswith("64") else "128-512")
        if row["latency_s"]:
            found = next(r for r in published.rows("latency") if r["model"] == row["model"])
            assert float(found["latency_ms"]) == pytest.approx(float(row["latency_s"]) * 1000)
            assert row["device"].startswith(found["device"])


def test_sources_that_print_the_same_figure_agree():
    cells = defaultdict(set)
    for row in published.rows("quality"):
        for metric in published.METRICS:
            if row[metric]:
                cells[row["model"], row["dataset"], row["protocol"], metric].add(float(row[metric]))
    twice = {key: values for key, values in cells.items() if len(values) > 1}
    for key, values in twice.items():
        assert max(values) - min(values) <= 5.1e-3 * max(values), (key, values)


def test_every_row_names_a_known_source_and_protocol():
    codes = {row["code"] for row in published.rows("sources")}
    for table in ("quality", "latency", "ntire2026"):
        for row in published.rows(table):
            assert set(row["source"].split("/")) <= codes, row
    assert {row["protocol"] for row in published.rows("quality")} == {
        "crop",
        "full",
        "64-256",
        "own",
    }
    keys = [
        (r["model"], r["dataset"], r["protocol"], r["source"]) for r in published.rows("quality")
    ]
    assert len(keys) == len(set(keys))


def test_plausible_ranges():
    """A slip of the decimal point shows here."""
    ranges = {
        "psnr": (10, 40),
        "ssim": (0, 1),
        "lpips": (0, 1),
        "dists": (0, 1),
        "niqe": (2, 12),
        "musiq": (10, 80),
        "maniqa": (0, 1),
        "clipiqa": (0, 1),
        "fid": (10, 300),
        "lpips_squeeze": (0, 1),
    }
    for row in published.rows("quality"):
        for metric, (low, high) in ranges.items():
            assert not row[metric] or low < float(row[metric]) < high, row


def test_the_log_is_the_table(shared):
    """OSEDiff's figures on RealSR are the means of its published per-image log."""
    with (shared / "data" / "realsr" / "osediff_metrics.csv").open() as stream:
        log = list(csv.DictReader(stream))
    values = published.systems("RealSR", "crop")["OSEDiff"]
    for column, ours in (
        ("psnr", "psnr"),
        ("ssim", "ssim"),
        ("lpips", "lpips"),
        ("dists", "dists"),
        ("niqe", "niqe"),
        ("musiq", "musiq"),
        ("clipiqa", "clipiqa"),
        ("maniqa", "maniqa-pipal"),
    ):
        mean = sum(float(row[column]) for row in log) / len(log)
        assert values[ours] == pytest.approx(mean, abs=6e-3 if ours == "musiq" else 6e-5), ours


def test_ntire_formula_reproduces_scores_and_ranks(shared):
    rows = reference(shared, "ntire2026_mobile_sr")
    finals = []
    for row in rows:
        value = {k: float(v) for k, v in row.items() if k not in ("team", "rank")}
        score = ntire.score(
            *(value[k] for k in ("lpips", "dists", "clipiqa", "maniqa", "musiq", "niqe"))
        )
        assert score == pytest.approx(value["perceptual_score"], abs=1e-3), row["team"]
        # the printed ingredients are rounded, and 2^score turns 1e-4 of the score into 7e-5 of the
        # final one
        assert ntire.final(value["perceptual_score"], value["speedup"]) == pytest.approx(
            value["final_score"], rel=1e-4
        )
        finals.append(ntire.final(score, value["speedup"]))
        assert finals[-1] == pytest.approx(value["final_score"], rel=1e-3), row["team"]
    order = sorted(range(len(rows)), key=lambda i: -finals[i])
    assert [int(rows[i]["rank"]) for i in order] == sorted(int(row["rank"]) for row in rows)
    assert {r["team"] for r in rows} == set(published.systems("NTIRE2026-Mobile", "full"))
    first = published.systems("NTIRE2026-Mobile", "full")["VIPSL"]
    assert (first["ntire-final"], first["musiq"], first["maniqa-pipal"]) == (42.2125, 68.91, 0.3798)
    assert ntire.score(0, 0, 1, 1, 100, 12) == 5  # NIQE above 10 takes nothing off


def test_metric_names_are_ours():
    assert set(published.METRICS.values()) <= set(METRICS)


def test_macs_of_another_input_size_stand_on_no_axis():
    assert published.cost("BiMaCoSR", "macs_g") is None
    assert published.cost("BiMaCoSR", "params_m") == 4.98
    assert published.cost("nothing", "macs_g") is None
