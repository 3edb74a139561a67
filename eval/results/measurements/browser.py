"""What a browser's GPU takes of each embedded model."""

from functools import partial

from eval.results.measurement import (
    CODES_OF_EXPORTS,
    Column,
    Finished,
    Job,
    Measurement,
    Row,
    Short,
)
from eval.results.measurements.scripts import FILE, read_rows
from eval.results.weights import NANO

SIZE = ("--lr-size", "32x32")  # a GPU in software takes a minute for it


def webgpu(short: Short) -> list[Job]:
    """Each embedded model as ONNX by onnxruntime's WebGPU."""
    return [_job(family) for family in list(NANO)[: short.limit]]


def _job(family: str) -> Job:
    words = ("python", "-m", "export.run", NANO[family], "--target", "onnx", "--dtype", "fp32")
    look = ("{webgpu_python}", "tests/bench/bench_webgpu.py", "{out}/export")
    return Job(
        family,
        (
            (*words, *SIZE, "--probe", "textured", "-o", "{out}/export"),
            (*look, "--json", f"{{out}}/{FILE}"),
        ),
        partial(_read, family),
        inputs=(NANO[family],),
        codes=CODES_OF_EXPORTS,
    )


def _read(family: str, finished: Finished) -> list[Row]:
    return [{"family": family, **row} for row in read_rows(finished)]


WEBGPU = Measurement(
    name="webgpu",
    title="What onnxruntime's WebGPU takes of each model",
    page="export",
    jobs=webgpu,
    columns=(
        Column("family", "model"),
        Column("part", "part"),
        Column("on_gpu", "nodes on the GPU"),
        Column("on_cpu", "nodes on the CPU"),
        Column("refused", "which"),
        Column("parity_db", "to the CPU, dB", 1, "dB"),
    ),
    needs=("webgpu_python",),
    hours=0.3,
)
