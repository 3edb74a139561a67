"""What a measurement is: documented command lines, and how the rows are read that they leave.

A measurement computes nothing itself. Its jobs run commands of the toolkit, or scripts under
tests/bench, as processes, and read the JSON that those write. So a figure has a command line that a
reader can type, a crash costs one job, and memory is the command's own.

Words in braces stand for places, which differ from machine to machine. `{realsr}` is what the user
gave as --realsr, `{run:NAME}` the run directory of a recipe, `{out}` the job's own folder, `{new}`
one in it that is empty when the job begins, `{work}` what jobs share, and `{skimage}` scikit-image,
which brings photographs. A result names places in capitals: no file tells where somebody's data
lies.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

Value = str | int | float | bool | None
Row = dict[str, Value]
EXPORT_FAILED = 1  # the exit code of an export below its threshold, which is a result
CODES_OF_EXPORTS = (0, EXPORT_FAILED)


@dataclass(frozen=True)
class Need:
    """Something outside of the repository: an option of the command, and what it has to name."""

    option: str
    word: str
    text: str


NEEDS = {
    "realsr": Need("--realsr", "REALSR", "the crop of RealSR, 100 pairs in LR/ and HR/"),
    "published": Need("--published", "PUBLISHED", "OSEDiff's published pictures of RealSR"),
    "realset65": Need("--realset65", "REALSET65", "the photographs of RealSet65"),
    "train": Need("--train", "TRAIN", "photographs to train on: a folder with bsds500, urban100"),
    "iqa_weights": Need("--iqa-weights", "IQA", "weights of the metrics (see eval.weights)"),
    "teacher": Need("--teacher", "TEACHER", "RealSet65 as the teacher restored it, NAME.png"),
    "photographs": Need("--photographs", "PHOTOGRAPHS", "a few photographs of 2560×1600"),
    "gan": Need("--gan", "GAN", "realesr-general-x4v3, a weight file that spandrel reads"),
    "taesd": Need("--taesd", "TAESD", "the folder of taesd_encoder and taesd_decoder.safetensors"),
    "openvino_python": Need("--openvino-python", "PYTHON", "a Python with [openvino]"),
    "qnn_python": Need("--qnn-python", "PYTHON", "a Python with onnxruntime-qnn"),
    "ncnn_python": Need("--ncnn-python", "PYTHON", "a Python with this toolkit and [ncnn]"),
    "litert_python": Need("--litert-python", "PYTHON", "a Python with this toolkit and [litert]"),
    "executorch_python": Need(
        "--executorch-python", "PYTHON", "a Python with this toolkit and [executorch]"
    ),
    "webgpu_python": Need(
        "--webgpu-python", "PYTHON", "a Python with onnxruntime-webgpu, and a GPU for Vulkan"
    ),
    "gpu_cells": Need("--gpu-cells", "CELLS", "cells.json of tests/bench/bench_gpu.py"),
    "bare_python": Need(
        "--bare-python", "PYTHON", "a Python with onnxruntime, numpy and Pillow alone"
    ),
}


@dataclass(frozen=True)
class Finished:
    """What a job's commands left.

    Attributes:
        out: The job's own folder, `{out}` in its commands.
        seconds: How long each command took.
        place: The path of a word in braces, such as `{run:passionsr_w8a8}`.
    """

    out: Path
    seconds: tuple[float, ...]
    place: Callable[[str], Path]


@dataclass(frozen=True)
class Job:
    """A part of a measurement that is done or not.

    Attributes:
        key: Its name within the measurement.
        commands: Words of each command; `python` is the interpreter that runs all this.
        read: Makes rows of what the commands left.
        inputs: Files of the repository that decide about the figures, recipes and weights.
        codes: Exit codes that leave a result, `CODES_OF_EXPORTS` of a command that exports.
    """

    key: str
    commands: tuple[tuple[str, ...], ...]
    read: Callable[[Finished], list[Row]]
    inputs: tuple[str, ...] = ()
    codes: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Short:
    """Less than a measurement asks for, to try its commands: images of data sets, training steps.

    None is all of them.
    """

    limit: int | None = None
    steps: int | None = None

    def words(self, option: str = "--limit", full: int | None = None) -> tuple[str, ...]:
        """`--limit N` for a command, where either N or `full` is a number."""
        count = full if self.limit is None else self.limit
        return () if count is None else (option, str(count))

    def steps_or(self, full: int) -> str:
        """Training steps, as a word of a command."""
        return str(full if self.steps is None else self.steps)


@dataclass(frozen=True)
class Column:
    """How a page shows a column: its head, digits after the point of a number, and the unit."""

    key: str
    head: str
    digits: int | None = None
    unit: str = ""


@dataclass(frozen=True)
class Measurement:
    """One table of docs/results.

    Attributes:
        name: Of the file docs/results/NAME.json.
        title: What is measured, in one line.
        page: The page of docs/results that shows it.
        jobs: Its jobs, in the order of the rows.
        columns: Those that its table shows.
        needs: Keys of NEEDS.
        packages: Modules that this interpreter has to have.
        is_timing: Whether figures are times, which need a machine without other work.
        hours: About how long it takes on two cores.
        edition: Rises when the same commands come to mean something else.
        pictures: Files that it draws, in the repository.
    """

    name: str
    title: str
    page: str
    jobs: Callable[[Short], list[Job]]
    columns: tuple[Column, ...]
    needs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    is_timing: bool = False
    hours: float = 0.1
    edition: int = 1
    pictures: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command line that makes it again."""
        words = [f"python -m eval.results --only {self.name}"]
        words += [f"{NEEDS[need].option} {NEEDS[need].word}" for need in self.needs]
        return " ".join(words)


def written_out(words: tuple[str, ...]) -> str:
    """A command as a result names it, with places in capitals."""
    text = " ".join(words)
    for key, need in NEEDS.items():
        text = text.replace(f"{{{key}}}", need.word)
    for word in ("out", "new", "work", "skimage"):
        text = text.replace(f"{{{word}}}", word.upper())
    return text


def units(columns: tuple[Column, ...]) -> Mapping[str, str]:
    """Column -> unit, of those that have one."""
    return {column.key: column.unit for column in columns if column.unit}
