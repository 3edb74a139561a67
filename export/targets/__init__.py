"""The runtimes that a model can be exported for: one file a target, one table, one way through.

A folder is written under a temporary name: the target's files, run.py, manifest.json, and parity.json once every file
has run. It takes its final name only if the runtime agrees with torch; else it stays as NAME.failed.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compress.core import folders, marks
from compress.core.errors import UserError, nearest
from compress.core.files import write_text, writing
from compress.model.sr_model import SRModel
from export.targets.parts import Exported, Options, Parts, check_host_arithmetic, choose_parts

__all__ = [
    "TARGETS",
    "Exported",
    "Options",
    "Target",
    "check_options",
    "check_packages",
    "choose_target",
    "export",
    "claimed",
    "failed_of",
    "finish",
]

DTYPES = ("fp32", "fp16", "fp8", "w8a8", "w8a16", "w8")


@dataclass(frozen=True)
class Target:
    """`write(parts, folder, options)` of `export.targets.to_<module>` makes the files. `packages` are import names that it
    needs here; `runs` says whether what it makes can run where it was made. `dtypes` maps what it can to the default
    threshold of parity in dB."""

    module: str
    packages: tuple[str, ...]
    install: str
    dtypes: dict[str, float]
    default: str
    runs: bool = True
    takes_quantised: bool = False
    whole: bool = False  # also writes model.*, one graph for all
    dynamic: bool = False
    remark: str = ""

    def writer(self) -> Callable[[Parts, Path, Options], Exported]:
        return importlib.import_module(f"export.targets.to_{self.module}").write


# Thresholds in dB, end to end: fp16 rounds at 2^-11; 30 and 45 are what 8 and 16 bits are expected to reach.
TARGETS: dict[str, Target] = {
    "onnx": Target(
        "onnx",
        ("onnxscript",),
        "pip install 'onnxscript>=0.7.2,<0.8'",
        {"fp32": 80.0, "fp16": 45.0, "w8a8": 30.0, "w8a16": 45.0},
        "fp32",
        takes_quantised=True,
        whole=True,
        dynamic=True,
    ),
    "qnn": Target(
        "qnn",
        (),
        "pip install onnxruntime-qnn==2.7.0",
        {"fp16": 45.0, "w8a8": 30.0, "w8a16": 45.0},
        "w8a16",
        takes_quantised=True,
        remark="compiled and simulated where onnxruntime-qnn is installed",
    ),
    "tensorrt": Target(
        "tensorrt",
        (),
        "pip install tensorrt cuda-python",
        {"fp32": 60.0, "fp16": 45.0, "fp8": 25.0, "w8a8": 30.0},
        "fp16",
        runs=False,
        remark="written only: an engine is built on the machine with the GPU",
    ),
    "openvino": Target(
        "openvino",
        ("openvino",),
        "pip install 'openvino>=2026.4,<2027'",
        {"fp32": 60.0, "fp16": 45.0, "w8a8": 30.0, "w8a16": 45.0},
        "fp32",
        takes_quantised=True,
    ),
    "executorch": Target(
        "executorch",
        ("executorch",),
        "pip install 'executorch>=1.5,<1.6'",
        {"fp32": 60.0, "fp16": 40.0, "w8a8": 30.0},
        "fp32",
    ),
    "litert": Target(
        "litert",
        ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"),
        "pip install litert-torch==0.10.0 ai-edge-litert==2.3.0 ai-edge-quantizer==0.10.0 (in an environment "
        "of its own: it wants other versions of pydantic and typing-extensions)",
        {"fp32": 60.0, "fp16": 45.0, "w8a8": 30.0, "w8a16": 45.0},
        "fp32",
    ),
    "coreml": Target(
        "coreml",
        ("coremltools",),
        "pip install 'coremltools>=9,<10'",
        {"fp32": 60.0, "fp16": 45.0, "w8": 30.0},
        "fp16",
        runs=False,
        remark="converted only: Core ML predicts on macOS",
    ),
    "ncnn": Target(
        "ncnn", ("ncnn", "pnnx"), "pip install ncnn pnnx", {"fp32": 60.0, "fp16": 40.0}, "fp32"
    ),
}


def choose_target(name: str) -> Target:
    if name not in TARGETS:
        raise UserError(
            f"export target '{name}' is unknown{nearest(name, TARGETS)}; choose one of {', '.join(TARGETS)}"
        )
    return TARGETS[name]


def check_options(name: str, options: Options) -> None:
    """Raise UserError for what a target cannot do, before a model is loaded."""
    target = choose_target(name)
    if options.dtype is not None and options.dtype not in target.dtypes:
        raise UserError(
            f"target {name} has no {options.dtype}{_why(name, options.dtype)}; choose one of "
            f"{', '.join(target.dtypes)}"
        )
    if options.dynamic and not target.dynamic:
        able = ", ".join(n for n, t in TARGETS.items() if t.dynamic)
        raise UserError(
            f"target {name} has static shapes only; leave out dynamic, or choose {able}"
        )
    if name != "onnx" and (options.opset is not None or options.low_bits != "packed"):
        raise UserError(f"opset and low_bits are options of target onnx; leave them out for {name}")


def _why(name: str, dtype: str) -> str:
    reasons = {
        ("executorch", "w8a16"): "XNNPACK has no kernels with 16-bit activations",
        ("tensorrt", "w8a16"): "TensorRT has no 16-bit integers",
        ("coreml", "w8a8"): "its activation ranges are calibrated on macOS only",
        ("coreml", "w8a16"): "Core ML has no 16-bit activation codes",
        ("ncnn", "w8a8"): "the ncnn package has no ncnn2table and ncnn2int8",
        ("ncnn", "w8a16"): "ncnn has no 16-bit codes",
        ("qnn", "fp32"): "the HTP computes in float16 or integers",
    }
    reason = reasons.get((name, dtype))
    return f" ({reason})" if reason else ""


def check_packages(name: str) -> None:
    target = choose_target(name)
    missing = [package for package in target.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"target {name} needs the package {missing[0]}; run: {target.install}")


def export(model: SRModel, name: str, out: Path, options: Options) -> Exported:
    """Write target `name` of `model` under a temporary name beside `out`, verified; returns what was made.

    The caller hands it to `finish`. Raises UserError for missing packages and for what the target cannot do.
    """
    from export.parity.verify import verify_exported
    from export.targets import manifest

    check_options(name, options)
    check_packages(name)
    target = TARGETS[name]
    parts = choose_parts(model, name, target, options)
    check_host_arithmetic(parts)
    partial = folders.begin(out, marks.EXPORT)
    with writing(partial):
        made = target.writer()(parts, partial, options)
        manifest.write(parts, made, partial, options, target)
        made.rows = verify_exported(parts, made, partial, options, target) if made.runs else []
        if made.runner:
            manifest.refresh(made, partial)
    return made


def failed_of(out: Path) -> Path:
    """Where an export stays that the runtime does not agree with."""
    return out.with_name(f"{out.name}.failed")


@contextmanager
def claimed(out: Path, option: str, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """Have `out` and NAME.failed for this process alone, before any work.

    Args:
        out: The folder of the export.
        option: What the user calls it, such as ``--out``.
        inputs: Files and folders that the command reads.

    Raises:
        UserError: One of them is no export of ours, a link, an input, a home, …, or another process writes it.
    """
    folders.check_place(out, option, inputs)
    folders.check_place(failed_of(out), option, inputs)
    folders.check_ours(failed_of(out), marks.EXPORT, option)
    with folders.claimed(out, marks.EXPORT, option, inputs):
        yield out


def finish(out: Path, problem: str | None, keep: bool = False) -> Path:
    """Give the folder its final name, or, with the reason in FAILED.txt, `NAME.failed`; returns where it is.

    `keep` leaves a failed one under its final name, marked by that file alone. Raises UserError where something that
    is no export of ours has come to stand there; the folder then keeps its temporary name.
    """
    partial, failed = folders.partial_of(out), failed_of(out)
    folders.check_ours(failed, marks.EXPORT, "--out")
    if problem:
        write_text(partial / "FAILED.txt", problem + "\n")
        marks.mark(partial, marks.EXPORT, marks.files_in(partial))
        if not keep:
            folders.swap_in(partial, failed, marks.EXPORT)
            return failed
    else:
        (partial / marks.MARK_FILE).unlink(
            missing_ok=True
        )  # manifest.json is the mark of a finished one
    folders.remove(failed, marks.EXPORT)
    folders.swap_in(partial, out, marks.EXPORT)
    return out
