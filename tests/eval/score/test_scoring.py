"""Caching by content, going on after a kill, several processes: the same figures, less work."""

import json
import sqlite3

import pytest
import torch

from compress.core.errors import UserError
from compress.process.resample import upsample
from eval.data.dataset import open_data
from eval.metric import scorer
from eval.metric.locating import locate
from eval.metric.scorer import Metrics
from eval.score.benchmark import evaluate
from eval.score.cache import ScoreCache, image_hash, key
from eval.score.options import EvaluateOptions
from eval.score.worker import Job, Worker


@pytest.fixture
def counted(monkeypatch):
    """Counts the images that every metric looks at."""
    seen = []
    original = Metrics.score_batch

    def score_batch(self, name, restored, reference):
        seen.extend([name] * len(restored))
        return original(self, name, restored, reference)

    monkeypatch.setattr(Metrics, "score_batch", score_batch)
    return seen


def test_nothing_is_measured_twice(realsr_like, tmp_path, counted, photo):
    options = {"cache": tmp_path / "c.sqlite", "progress": False}
    first = evaluate(realsr_like / "HR", realsr_like, EvaluateOptions(["psnr", "gmsd"], **options))
    assert sorted(counted) == ["gmsd", "gmsd", "psnr", "psnr"]
    counted.clear()
    assert (
        evaluate(realsr_like / "HR", realsr_like, EvaluateOptions(["psnr", "gmsd"], **options))
        == first
    )
    assert counted == []
    photo(128, 96, seed=9).save(realsr_like / "HR" / "b.png")  # its content counts, not its name
    evaluate(realsr_like / "HR", realsr_like, EvaluateOptions(["psnr", "ssim"], **options))
    assert sorted(counted) == ["psnr", "ssim", "ssim"]


def test_a_killed_evaluation_goes_on(realsr_like, tmp_path, counted, monkeypatch):
    """Killed after the first of two images."""
    options = {"cache": tmp_path / "c.sqlite", "progress": False, "batch": 1}
    original = Worker.__call__

    def killed(self, pairs):
        if pairs[0].name == "b":
            raise KeyboardInterrupt
        return original(self, pairs)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate(realsr_like / "HR", realsr_like, EvaluateOptions(["psnr"], **options))
    assert counted == ["psnr"]
    evaluate(realsr_like / "HR", realsr_like, EvaluateOptions(["psnr"], **options))
    assert counted == ["psnr", "psnr"]


def test_restored_images_are_known_by_model_and_small_image(realsr_like, tmp_path):
    data, calls = open_data(realsr_like), []

    def restore(pair):
        calls.append(pair.name)
        return upsample(pair.lr()).clamp(0, 1)

    def run(model_key, save=None):
        job = Job(locate(["psnr"]), model_key=model_key, cache=tmp_path / "c.sqlite", save=save)
        outcomes = Worker(job, restore)(data.pairs)
        ScoreCache(job.cache).put({k: v for o in outcomes for k, v in o.fresh.items()})
        return [o.scores["psnr"] for o in outcomes]

    first = run("one")
    assert calls == ["a", "b"]
    assert run("one") == first
    assert calls == ["a", "b"]
    run("two")
    assert calls == ["a", "b"] * 2
    run("one", tmp_path / "kept")  # the pictures themselves are wanted: they have to be made
    assert calls == ["a", "b"] * 3
    (tmp_path / "kept" / "a.png").unlink()
    assert run("one", tmp_path / "kept") == first
    assert calls[6:] == ["a"]


def test_keys_depend_on_image_metric_and_weights(shared, tmp_path, monkeypatch):
    image = torch.arange(48, dtype=torch.uint8).view(4, 4, 3).numpy()
    assert image_hash(image) != image_hash(image.reshape(2, 8, 3))
    assert key("a", None) != key("a", "b")
    assert key("ab", "c") != key("a", "bc")
    one = Metrics(["niqe", "psnr"], shared / "iqa")
    assert one.identity("niqe") != one.identity("psnr")
    before = one.identity("niqe")
    monkeypatch.setattr(scorer, "digest", lambda path: "another file")
    assert one.identity("niqe") != before


@pytest.mark.slow
def test_processes_give_the_same_rows(realsr_like, tmp_path, photo):
    for i in range(4):
        for folder, size in (("LR", (24, 20)), ("HR", (96, 80))):
            photo(*size, seed=10 + i).save(realsr_like / folder / f"c{i}.png")
    (realsr_like / "HR" / "c3.png").write_bytes((realsr_like / "HR" / "c3.png").read_bytes()[:900])
    results = [
        evaluate(
            realsr_like / "HR",
            realsr_like,
            EvaluateOptions(
                ["psnr-rgb", "gmsd"],
                out=tmp_path / str(n),
                batch=2,
                processes=n,
                progress=False,
            ),
        )
        for n in (1, 2)
    ]
    assert results[0] == results[1]
    assert results[0]["images"] == 5
    assert list(results[0]["problems"]) == ["c3"]
    assert (tmp_path / "1" / "metrics.csv").read_text() == (
        tmp_path / "2" / "metrics.csv"
    ).read_text()


def test_mistakes(realsr_like, tmp_path):
    (tmp_path / "c.sqlite").write_text(
        "no data base, but longer than the header that SQLite looks at " * 20
    )
    for options, says in (
        ({"processes": 0}, "at least 1"),
        ({"batch": 0}, "at least 1"),
        ({"speedup": 0.0}, "above 0"),
        ({"cache": tmp_path / "c.sqlite"}, "cannot be used as the cache of scores"),
    ):
        with pytest.raises(UserError, match=says):
            evaluate(
                realsr_like / "HR",
                realsr_like,
                EvaluateOptions(["psnr"], progress=False, **options),
            )


def test_cache_reads_what_it_wrote(tmp_path):
    cache = ScoreCache(tmp_path / "deep" / "c.sqlite")
    cache.put({"a": 1.5, "b": b"\x00\x01", "c": "text"})
    assert ScoreCache(tmp_path / "deep" / "c.sqlite").get(["a", "b", "c", "d"]) == {
        "a": 1.5,
        "b": b"\x00\x01",
        "c": "text",
    }
    assert ScoreCache(None).get(["a"]) == {}
    assert sqlite3.connect(tmp_path / "deep" / "c.sqlite").execute(
        "SELECT count(*) FROM sealed"
    ).fetchone() == (3,)


def test_ntire_scores_come_from_the_averages(monkeypatch, realsr_like):
    """With the six metrics' means given, the two composed figures and the reason for a missing
    one."""
    from eval.metric import ntire
    from eval.score.averages import composed

    values = {
        "lpips": 0.3524,
        "dists": 0.2232,
        "niqe": 2.81,
        "maniqa-pipal": 0.4684,
        "musiq": 74.68,
        "clipiqa": 0.8805,
    }
    assert composed("ntire-score", values, None) == (
        pytest.approx(4.2392, abs=1e-3),
        None,
    )
    value, why = composed("ntire-final", values, None)
    assert value is None
    assert "--speedup" in why
    assert composed("ntire-final", values, 11.67)[0] == pytest.approx(30.8701, rel=1e-3)
    value, why = composed("ntire-score", {**values, "niqe": None}, None)
    assert value is None
    assert "niqe has no value" in why
    assert set(values) == set(ntire.INGREDIENTS)
    assert json.dumps(values)
