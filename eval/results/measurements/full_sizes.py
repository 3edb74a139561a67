"""Every source at full size by every recipe, exported for every target that runs here."""

from functools import partial

from eval.results.full_sizes import FULL_SIZES, PAPER, STRIP, W8A8, FullSize
from eval.results.measurement import Column, Job, Measurement, Short
from eval.results.measurements.scripts import read_rows, script
from eval.results.weights import recipe_file
from export.targets.table import REASONS, TARGETS

WAYS = (STRIP, PAPER, W8A8)
CODES = "w8a8"
# Target -> what its command needs. The compiler of QNN has a Python of its own; other packages
# stand beside this toolkit.
RUN_HERE: dict[str, str | None] = {
    "onnx": None,
    "openvino": "openvino_python",
    "qnn": "qnn_python",
    "executorch": "executorch_python",
    "litert": "litert_python",
    "ncnn": "ncnn_python",
}
ON_PHONES = ("qnn", "litert", "ncnn")  # which compute a float model in float16
HOURS = 8.0  # about, of one target


def why_empty(one: FullSize, way: str, target: str) -> str | None:
    """Why there is no job for a source, a way and a target, in few words; None where there is.

    Args:
        one: The source.
        way: One of WAYS.
        target: Of `export.targets.table`.
    """
    if one.recipe(way) is None:
        return "no recipe"
    if not TARGETS[target].runs:
        return TARGETS[target].remark.partition(":")[0]
    if way == W8A8 and (target, CODES) in REASONS:
        return f"no {CODES}"
    return None if target in RUN_HERE else "not measured"


def key_of(one: FullSize, way: str) -> str:
    """The key of a job within the measurement of its target."""
    return f"{one.label}, {one.title(way)}"


def _jobs(target: str, short: Short) -> list[Job]:
    cells = [(one, way) for one in FULL_SIZES for way in WAYS if not why_empty(one, way, target)]
    return [_job(one, way, target) for one, way in cells[: short.limit]]


def _job(one: FullSize, way: str, target: str) -> Job:
    need = RUN_HERE[target]
    words = [one.label, way, target]
    dtype = dtype_of(way, target)
    if dtype is not None:
        words += ["--dtype", dtype]
    python = "python"
    if target == "qnn":
        words += ["--compiler", "{qnn_python}"]
    elif need is not None:
        python = f"{{{need}}}"
    _, *rest = script("bench_full_target", *words)
    shipped = one.recipe(way)
    inputs = () if shipped is None else (recipe_file(shipped.name),)
    return Job(key_of(one, way), ((python, *rest),), read_rows, inputs=inputs)


def dtype_of(way: str, target: str) -> str | None:
    """The dtype of a float model; None for the target's own."""
    if way == W8A8:
        return None if TARGETS[target].takes_quantised else CODES
    return "fp16" if target in ON_PHONES else None


def _measurement(target: str) -> Measurement:
    need = RUN_HERE[target]
    return Measurement(
        name=f"full_size_{target}",
        title=f"Every source at full size with random weights, for {target}",
        page="full-size",
        jobs=partial(_jobs, target),
        columns=(
            Column("source", "source"),
            Column("recipe", "recipe"),
            Column("megabytes", "MB", 0, "10^6 bytes"),
            Column("parity_db", "to torch, dB", unit="dB"),
            Column("passed", "above its threshold"),
            Column("seconds", "seconds", 0, "s"),
            Column("peak_gib", "peak GiB", 1, "GiB"),
            Column("error", "failed"),
        ),
        needs=() if need is None else (need,),
        hours=HOURS,
    )


BY_TARGET = {target: _measurement(target) for target in RUN_HERE}
ALL = tuple(BY_TARGET.values())
