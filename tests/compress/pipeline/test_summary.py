"""The lines that a finished run prints."""

from types import SimpleNamespace

from compress.pipeline.summary import pairs_of, summary
from eval.reporting.curve import ours_are

COST = {
    "lr_size": [96, 64],
    "bytes": 16_000_000,
    "params": 4_000_000,
    "param_equivalents": 4e6,
    "macs_paper": 2e10,
    "macs_equivalent": 2e10,
}


def lines(latency=(), results=None, **after) -> str:
    record = {"cost": {"before": COST, "after": {**COST, "file_bytes": 8_100_000, **after}}}
    recipe = SimpleNamespace(name="one", eval=SimpleNamespace(metrics=["psnr"]))
    return "\n".join(
        summary(recipe, record, {"parity": [], "latency": list(latency)}, results or {})
    )


def row(label: str, ratio: float, threads: int = 2) -> dict:
    return {
        "label": label,
        "ratio": ratio,
        "size_ratio": 0.25,
        "threads": threads,
        "machine": "cpu, 2 cores",
    }


def test_packed_weights_are_told_from_the_file():
    text = lines(bytes=2_000_000)
    assert (
        "16.00 MB -> 2.00 MB (0.125), packed at their own width; model.safetensors has 8.10 MB"
        in text
    )
    assert "LR 64x96" in text
    assert "no speed" in text


def test_every_target_is_measured_against_its_own_source():
    rows = [row("source fp32", 1.0), row("one", 1.5), row("source fp32", 1.0), row("one", 1.25)]
    assert [(a["label"], b["ratio"]) for a, b in pairs_of(rows)] == [
        ("source fp32", 1.5),
        ("source fp32", 1.25),
    ]
    text = lines(rows)
    assert text.count("x the speed of source fp32") == 2
    assert "1.00 x the speed" not in text


def test_one_thread_is_not_threads():
    text = lines([row("source fp32", 1.0, 1), row("one", 1.5, 1)])
    assert "measured: 1 thread, cpu" in text
    assert "measured: 2 threads, cpu" in lines([row("source fp32", 1.0), row("one", 1.5)])


def test_no_image_in_common_is_said():
    averages = {"psnr": None, "blank": {}, "problems": {"a": "a.png: empty"}}
    text = lines(
        results={"photos": {"source": averages, "compressed": averages, "fidelity_db": None}}
    )
    assert "photos: no image was restored by both models" in text
    assert "nan" not in text


def test_the_legend_calls_a_prediction_one():
    assert ours_are("size") == "measured here"
    assert "latency predicted" in ours_are("latency")
    assert "latency measured" in ours_are("latency", "measured")
