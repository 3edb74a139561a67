"""A phone on a cable: a benchmark program and a graph are pushed to it, run there, and removed.

The programs are LiteRT's `benchmark_model` and onnxruntime's `onnxruntime_perf_test`, built for the
phone's processor by those who publish them. Nothing here was run on a phone; a fake adb that says
what these programs print is tested.
"""

import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from compress.core.errors import UserError
from compress.recipe import profiles
from compress.recipe.profiles import Row
from export.devices.graphs import Graph

ON_PHONE = PurePosixPath("/data/local/tmp/diffusion-sr-compress")
SECONDS = 900  # until a command on the phone is given up
WARMUP = 5  # runs before those that count
TARGETS = ("litert", "onnx")
PROCESSORS = {"litert": ("gpu", "cpu"), "onnx": ("cpu",)}
MICROSECONDS = 1000
MEGABYTE = 10**6
LITERT_MS = re.compile(r"Inference \(avg\): ([\d.]+(?:e[+-]?\d+)?)")
LITERT_MB = re.compile(r"Memory footprint delta.*overall=([\d.]+)")
LITERT_DELEGATE = re.compile(r"^.*model graph will be .* executed by the delegate.*$", re.M)
ONNX_MS = re.compile(r"Average inference time cost[^:]*: ([\d.]+) ms")
ONNX_BYTES = re.compile(r"Peak working set size: (\d+) bytes")


class Phone:
    """A phone that adb reaches.

    Args:
        target: Of the exported folder, one of TARGETS.
        tool: The benchmark program for the phone's processor.
        processor: One of PROCESSORS[target].
        runs: That are averaged.
        serial: Of the phone; None where one alone is connected.
        threads: CPU threads.

    Raises:
        UserError: There is no adb, no phone, or it does not answer.
    """

    def __init__(
        self,
        target: str,
        tool: Path,
        processor: str,
        runs: int,
        serial: str | None = None,
        threads: int = 4,
    ):
        self.target, self.tool, self.processor = target, tool, processor
        self.runs, self.threads = runs, threads
        self.serial = serial
        if shutil.which("adb") is None:
            raise UserError(
                "--adb needs the program adb, which is not on the PATH; it is in Android's "
                "platform-tools"
            )
        self._adb("get-state")
        self.device = self._property("ro.product.model")
        self.os = f"Android {self._property('ro.build.version.release')}"
        self.way = f"adb {target} {processor}"

    def submit(self, graph: Graph) -> Row:
        """Run a graph on the phone; returns its row."""
        row = Row(graph.part, graph.sha256, self.device, self.way, calls=graph.calls, os=self.os)
        row.date = datetime.now(UTC).date().isoformat()
        try:
            self._adb("shell", "mkdir", "-p", str(ON_PHONE))
            for path in (self.tool, graph.file, *graph.beside):
                self._adb("push", str(path), str(ON_PHONE / path.name))
            self._adb("shell", "chmod", "755", str(ON_PHONE / self.tool.name))
            said = self._adb("shell", *self._command(graph))
        except UserError as error:
            row.state, row.note = profiles.FAILED, str(error)
            return row
        finally:
            self._adb("shell", "rm", "-rf", str(ON_PHONE))
        self._read(said, row)
        return row

    def collect(self, row: Row) -> None:
        """Nothing: `submit` waits for the phone."""

    def _command(self, graph: Graph) -> list[str]:
        program, model = str(ON_PHONE / self.tool.name), str(ON_PHONE / graph.file.name)
        if self.target == "onnx":
            counts = ["-m", "times", "-r", str(self.runs), "-x", str(self.threads)]
            return [program, "-e", "cpu", *counts, "-I", model]
        on_gpu = str(self.processor == "gpu").lower()
        return [
            program,
            f"--graph={model}",
            f"--num_runs={self.runs}",
            f"--warmup_runs={WARMUP}",
            f"--num_threads={self.threads}",
            f"--use_gpu={on_gpu}",
            "--report_peak_memory_footprint=true",
        ]

    def _read(self, said: str, row: Row) -> None:
        """Fill a row by what the program printed."""
        is_litert = self.target == "litert"
        time = (LITERT_MS if is_litert else ONNX_MS).search(said)
        if time is None:
            lines = said.strip().splitlines() or ["nothing"]
            row.state, row.note = profiles.FAILED, f"{self.tool.name} told no time ({lines[-1]})"
            return
        row.state = profiles.MEASURED
        row.ms = float(time[1]) / (MICROSECONDS if is_litert else 1)
        memory = (LITERT_MB if is_litert else ONNX_BYTES).search(said)
        if memory is not None:
            row.peak_mb = float(memory[1]) / (1 if is_litert else MEGABYTE)
        delegate = LITERT_DELEGATE.search(said)
        if delegate is not None:
            row.note = delegate[0].strip()

    def _property(self, name: str) -> str:
        return self._adb("shell", "getprop", name).strip()

    def _adb(self, *words: str) -> str:
        """What a command of adb prints.

        Raises:
            UserError: It ends with another code than 0, or not at all.
        """
        serial = ["-s", self.serial] if self.serial else []
        command = ["adb", *serial, *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise UserError(
                f"adb {words[0]}: no end after {SECONDS} s; look at the phone"
            ) from None
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
            raise UserError(
                f"adb {' '.join(words[:2])}: {said[-1]}; `adb devices` lists the phones, and "
                "--adb SERIAL names one"
            )
        return done.stdout + done.stderr
