"""Functions timed in turns, by the clock that other work does not lengthen where there is one."""

import itertools

import pytest

from export.timing import turns
from export.timing.folders import computes_on_cpu


@pytest.fixture
def clocks(monkeypatch):
    """Two clocks: one second a look for the processor's, ten for the day's."""
    for name, step in (("process_time", 1), ("perf_counter", 10)):
        ticks = itertools.count(0, step)
        monkeypatch.setattr(turns.time, name, lambda ticks=ticks: next(ticks))


@pytest.mark.parametrize(("threads", "seconds"), [(1, 1), (2, 10), (None, 10)])
def test_one_thread_is_timed_by_the_processor(clocks, threads, seconds):
    times = turns.interleaved({"a": lambda: None, "b": lambda: None}, 4, threads)
    assert times == {"a": [seconds * 1e3] * 4, "b": [seconds * 1e3] * 4}


@pytest.mark.parametrize(
    ("target", "graph", "is_on_cpu"),
    [
        ("onnx", {}, True),
        ("litert", {}, True),
        ("litert", {"gpu": {"fully_accelerated": True}}, False),
        ("coreml", {}, False),
        ("tensorrt", {}, False),
    ],
)
def test_what_computes_elsewhere(target, graph, is_on_cpu):
    manifest = {"target": target, "graphs": {"encoder": {}, "denoiser": graph}}
    assert computes_on_cpu(manifest) is is_on_cpu
