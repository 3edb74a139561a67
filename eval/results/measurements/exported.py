"""Exported files: parity by target, operators that hardware refuses, in a bare environment."""

from functools import partial

from compress.core.json_files import read_json
from compress.model.sr_model import MARGIN
from eval.results.measurement import (
    CODES_OF_EXPORTS,
    Column,
    Finished,
    Job,
    Measurement,
    Row,
    Short,
)
from eval.results.measurements.recipes import parity
from eval.results.measurements.scripts import read_rows, read_stdout, script
from eval.results.weights import NANO

MODELS = {"osediff": "osediff", "adcsr": "adcsr", "sinsr": "resshift", "edge": "edge_sd_sr"}
PHOTOGRAPHS = ("photo 1", "photo 2")
SIZE = ("--lr-size", "64x64")
ONE_TILE = ("--lr-size", "128x128")
SQUARE = 128 - 2 * MARGIN
# Target -> dtypes, what the command needs, and about the hours that it takes.
TARGETS: dict[str, tuple[tuple[str, ...], str | None, float]] = {
    "onnx": (("fp32", "fp16", "w8a8", "w8a16"), None, 0.5),
    "qnn": (("fp16", "w8a8", "w8a16"), "qnn_python", 1.5),
    "openvino": (("fp32", "fp16", "w8a8", "w8a16"), "openvino_python", 0.5),
    "ncnn": (("fp32", "fp16", "w8a8"), "ncnn_python", 0.5),
    "litert": (("fp32", "fp16", "w8a8", "w8a16"), "litert_python", 1),
    "executorch": (("fp32", "fp16", "w8a8"), "executorch_python", 1),
}


def export(
    model: str,
    target: str,
    dtype: str,
    python: str = "python",
    size: tuple[str, ...] = SIZE,
) -> tuple[str, ...]:
    """The command that exports a model into the job's folder."""
    file = NANO[MODELS[model]]
    words = (python, "-m", "export.run", file, "--target", target, "--dtype", dtype, *size)
    return (*words, "-o", "{out}/export")


def _parity_jobs(target: str, short: Short) -> list[Job]:
    dtypes, need, _ = TARGETS[target]
    # The compiler of QNN has a Python of its own; other packages stand beside this toolkit.
    python = "python" if need is None or target == "qnn" else f"{{{need}}}"
    probes = PHOTOGRAPHS[:1] if target == "qnn" else PHOTOGRAPHS
    more = [word for probe in probes for word in ("--probe", probe)]
    if target == "qnn":
        more += ["--python", "{qnn_python}"]
    cases = [(dtype, model) for dtype in dtypes for model in MODELS]
    return [
        Job(
            f"{dtype} {model}",
            ((*export(model, target, dtype, python), *more),),
            partial(parity_row, target, dtype, model),
            inputs=(NANO[MODELS[model]],),
            codes=CODES_OF_EXPORTS,
        )
        for dtype, model in cases[: short.limit]
    ]


def parity_row(target: str, dtype: str, model: str, finished: Finished) -> list[Row]:
    """The row of one export; one below its threshold lies in a folder of another name."""
    good, failed = finished.out / "export", finished.out / "export.failed"
    folder = good if good.is_dir() else failed
    manifest = read_json(folder / "manifest.json", "the manifest of an export")
    files = manifest["files"].values()
    return [
        {
            "target": target,
            "dtype": dtype,
            "model": model,
            "parity_db": parity(folder),
            "passed": good.is_dir(),
            "kilobytes": sum(file["bytes"] for file in files) / 1e3,
            "seconds": finished.seconds[-1],
        }
    ]


def _parity(target: str) -> Measurement:
    _, need, hours = TARGETS[target]
    return Measurement(
        name=f"parity_{target}",
        title=f"Parity of {target} with torch",
        page="export",
        jobs=partial(_parity_jobs, target),
        columns=(
            Column("dtype", "dtype"),
            Column("model", "model"),
            Column("parity_db", "to torch, dB", unit="dB"),
            Column("passed", "above its threshold"),
            Column("kilobytes", "kB", 0, "10^3 bytes"),
        ),
        needs=() if need is None else (need,),
        hours=hours,
    )


PARITIES = tuple(_parity(target) for target in TARGETS)


def operators(short: Short) -> list[Job]:
    """Operators of AdcSR's file that hardware refuses, before and after the rewrites."""
    model = NANO["adcsr"]
    jobs = []
    for target in ("qnn", "mediatek")[: short.limit]:
        for form in ("before the rewrites", "after"):
            rewrite = () if form != "after" else ("--rewrite", target)
            write = (
                # In float32: the rules are for float16, and a file in it has casts at its ends.
                *("python", "-m", "export.run", model, "--target", "onnx", "--dtype", "fp32"),
                *(*SIZE, *rewrite, "-o", "{out}/export"),
            )
            check = ("python", "-m", "export.lint", "{out}/export/model.onnx", "--target", target)
            jobs.append(
                Job(
                    f"{target}, {form}",
                    (write, (*check, "--json")),
                    partial(_read_lint, target, form),
                    inputs=(model,),
                    codes=CODES_OF_EXPORTS,
                )
            )
    return jobs


def _read_lint(target: str, form: str, finished: Finished) -> list[Row]:
    """What the lint counted: nodes by verdict, and partitions."""
    report = read_stdout(finished, 1)
    counts: Row = report["counts"]
    return [{"rules": target, "form": form, **counts, "partitions": report["partitions"]}]


OPERATORS = Measurement(
    name="operators",
    title="Operators of AdcSR nano that the rules of an NPU refuse",
    page="export",
    jobs=operators,
    columns=(
        Column("rules", "rules"),
        Column("form", "graph"),
        Column("unsupported", "refused"),
        Column("unknown", "unknown"),
        Column("poor", "poor"),
        Column("supported", "supported"),
        Column("partitions", "partitions"),
    ),
)


def alone(short: Short) -> list[Job]:
    """An exported folder in an environment without this toolkit, against the toolkit.

    The square fills one tile with its margin, and the toolkit sees the same. The photograph is cut
    into tiles, and the toolkit takes it whole.
    """
    picture = "{skimage}/data/chelsea.png"
    square = f"{{out}}/square/chelsea_{SQUARE}.png"
    del short
    jobs = []
    for dtype in ("fp32", "w8a8"):
        model = NANO["adcsr"]
        commands = (
            ("python", "tests/bench/crop_pictures.py", picture, str(SQUARE), "-o", "{out}/square"),
            export("adcsr", "onnx", dtype, size=ONE_TILE),
            ("{bare_python}", "{out}/export/run.py", square, picture, "-o", "{new}/alone"),
            ("python", "-m", "compress.upscale", model, square, picture, "-o", "{new}/toolkit"),
            script("compare_pictures", "{new}/toolkit", "{new}/alone"),
        )
        jobs.append(Job(dtype, commands, partial(_read_alone, dtype), inputs=(model,)))
    return jobs


def _read_alone(dtype: str, finished: Finished) -> list[Row]:
    return [{"dtype": dtype, **row} for row in read_rows(finished)]


ALONE = Measurement(
    name="alone",
    title="An exported folder in an environment of its own",
    page="export",
    jobs=alone,
    columns=(
        Column("dtype", "dtype"),
        Column("picture", "picture"),
        Column("psnr_db", "to the toolkit in torch, dB", 1, "dB"),
        Column("largest", "largest difference", 0, "levels of 255"),
    ),
    needs=("bare_python",),
)


def delegates(short: Short) -> list[Job]:
    """What XNNPACK and Vulkan take of each embedded model, and in how many pieces."""
    return [
        _delegate(family, delegate)
        for family in list(NANO)[: short.limit]
        for delegate in ("xnnpack", "vulkan")
    ]


def _delegate(family: str, delegate: str) -> Job:
    words = ("{executorch_python}", "-m", "export.run", NANO[family], "--target", "executorch")
    chosen = ("--delegate", delegate, "--dtype", "fp32", "--probe", "textured")
    return Job(
        f"{family} {delegate}",
        ((*words, *chosen, *SIZE, "-o", "{out}/export"),),
        partial(_read_delegate, family, delegate),
        inputs=(NANO[family],),
        codes=CODES_OF_EXPORTS,
    )


def _read_delegate(family: str, delegate: str, finished: Finished) -> list[Row]:
    """One row: partitions and operators beside them, or what ExecuTorch ended with."""
    good, failed = finished.out / "export", finished.out / "export.failed"
    folder = good if good.is_dir() else failed
    row: Row = {"family": family, "delegate": delegate}
    if not folder.is_dir():
        said = (finished.out / "stderr_0.txt").read_text(encoding="utf-8").strip()
        return [row | {"error": said.splitlines()[-1].removeprefix("Exception: ")}]
    graphs = read_json(folder / "manifest.json", "the manifest of an export")["graphs"]
    for part in ("encoder", "denoiser", "decoder"):
        row[part] = graphs[part]["partitions"] if part in graphs else None
    row["portable"] = sum(graph["portable"] for graph in graphs.values())
    row["parity_db"] = parity(folder) if (folder / "parity.json").is_file() else None
    return [row]


DELEGATES = Measurement(
    name="delegates",
    title="What ExecuTorch's delegates take of each model",
    page="export",
    jobs=delegates,
    columns=(
        Column("family", "model"),
        Column("delegate", "delegate"),
        Column("encoder", "partitions of the encoder"),
        Column("denoiser", "of the denoiser"),
        Column("decoder", "of the decoder"),
        Column("portable", "operators on portable kernels"),
        Column("parity_db", "to torch, dB", unit="dB"),
        Column("error", "failed"),
    ),
    needs=("executorch_python",),
    edition=2,  # from here on with windows, codes and enlargement in plain operators
    hours=0.7,
)


def residency(short: Short) -> list[Job]:
    """What LiteRT's delegate for GPUs takes of each embedded model."""
    return [_resident(family) for family in list(NANO)[: short.limit]]


def _resident(family: str) -> Job:
    words = ("{litert_python}", "-m", "export.run", NANO[family], "--target", "litert")
    chosen = ("--delegate", "gpu", "--dtype", "fp32", "--probe", "textured")
    return Job(
        family,
        ((*words, *chosen, *SIZE, "-o", "{out}/export"),),
        partial(_read_residency, family),
        inputs=(NANO[family],),
        codes=CODES_OF_EXPORTS,
    )


def _read_residency(family: str, finished: Finished) -> list[Row]:
    """A row a graph: whether the GPU takes all of it, and how near its values come."""
    good, failed = finished.out / "export", finished.out / "export.failed"
    folder = good if good.is_dir() else failed
    graphs = read_json(folder / "manifest.json", "the manifest of an export")["graphs"]
    measured = read_json(folder / "parity.json", "the parity of an export", list)
    reached = {row["file"]: row["psnr_db"] for row in measured}
    return [
        {
            "family": family,
            "part": stem,
            "all": graph["gpu"]["fully_accelerated"],
            "on_cpu": graph["gpu"]["on_cpu"],
            "refused": ", ".join(graph["gpu"]["refused"]) or None,
            "parity_db": reached[stem],
            "end_to_end_db": reached.get("end to end"),
            "device": graph["gpu"]["device"],
        }
        for stem, graph in graphs.items()
    ]


RESIDENCY = Measurement(
    name="residency",
    title="What LiteRT's delegate for GPUs takes of each model",
    page="export",
    jobs=residency,
    columns=(
        Column("family", "model"),
        Column("part", "part"),
        Column("all", "on the GPU alone"),
        Column("on_cpu", "operators on the CPU"),
        Column("refused", "what it refuses"),
        Column("parity_db", "to torch, dB", 1, "dB"),
        Column("end_to_end_db", "of the whole, dB", 1, "dB"),
        Column("device", "GPU"),
    ),
    needs=("litert_python",),
    hours=1,
)
