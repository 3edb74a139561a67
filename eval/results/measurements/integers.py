"""Integers beside floats: speed of files, processors without VNNI, backends, methods, bits."""

from functools import partial

from compress.core.json_files import read_json
from eval.results.measurement import (
    CODES_OF_EXPORTS,
    Column,
    Finished,
    Job,
    Measurement,
    Row,
    Short,
)
from eval.results.measurements.recipes import run_command, run_of
from eval.results.measurements.scripts import read_rows, script
from eval.results.weights import recipe_file, recipe_inputs
from export.baselines.methods import METHODS as BASELINES

FORMS = (
    Column("recipe", "recipe"),
    Column("threads", "threads"),
    Column("part", "part"),
    Column("form", "form"),
    Column("median_ms", "ms", 1, "ms"),
    Column("ratio", "speed", 2, "of fp32"),
    Column("size_ratio", "bytes", 3, "of fp32"),
    Column("integer_ms", "integer ms", 1, "ms"),
    Column("conversion_ms", "conversion ms", 1, "ms"),
    Column("float_ms", "float ms", 1, "ms"),
    Column("fast_ms", "fast kernels, ms", 1, "ms"),
    Column("apart", "fast kernels differ by"),
)
TIMED = (
    "passionsr_w8a8",
    "passionsr_fast_w8a8",
    "passionsr_full_w8a8",
    "passionsr_w4a8",
    "passionsr_w8a16",
    "adcsr_weights_w8a8",
    "edge_sd_sr_w8a8",
    "bimacosr",
    "bimacosr_full",
)
REPEATS = 12


def int8(short: Short) -> list[Job]:
    """The ONNX files of recipes beside their sources, part by part."""
    return [_timed(name, short) for name in TIMED[: short.limit]]


def _repeats(short: Short) -> tuple[str, ...]:
    return ("--repeats", str(REPEATS if short == Short() else 1))


def _timed(name: str, short: Short) -> Job:
    commands = (
        run_command(name, short),
        script("bench_int8", run_of(name, short), *_repeats(short)),
    )
    return _job(name, commands)


def _job(name: str, commands: tuple[tuple[str, ...], ...]) -> Job:
    return Job(
        name,
        commands,
        partial(_read_forms, name),
        inputs=recipe_inputs(name),
        codes=CODES_OF_EXPORTS,
    )


def _read_forms(name: str, finished: Finished) -> list[Row]:
    """Rows of one recipe; what is said of the machine stands with the job."""
    return [
        {"recipe": f"`{name}`", **{key: row[key] for key in row if key not in ("machine", "label")}}
        for row in read_rows(finished)
    ]


def openvino(short: Short) -> list[Job]:
    """The fastest recipe's files in OpenVINO and beside NNCF's int8."""
    name = "passionsr_fast_w8a8"
    python = ("--openvino-python", "{openvino_python}")
    commands = (
        run_command(name, short),
        script("bench_int8", run_of(name, short), *_repeats(short), *python),
    )
    return [_job(name, commands)]


def reduce_range(short: Short) -> list[Job]:
    """Weights of seven bits beside those of eight, which overflow before VNNI."""
    name = "passionsr_fast_w8a8"
    beside = (
        *("python", "-m", "compress.run", recipe_file(name), "passes.1.reduce_range=true"),
        *("name=fast_rr", "--out", "{out}/beside", "--resume"),
    )
    commands = (
        run_command(name, short),
        beside,
        script("bench_int8", run_of(name, short), "--beside", "{out}/beside", *_repeats(short)),
    )
    return [_job(name, commands)]


def backends(short: Short) -> list[Job]:
    """One photograph by the torch simulation and by onnxruntime."""
    name = "passionsr_w8a8"
    jobs = []
    for backend in ("torch", "onnxruntime"):
        upscale = (
            *("python", "-m", "compress.upscale", run_of(name, short)),
            *("{skimage}/data/chelsea.png", "--backend", backend, "-o", "{new}"),
        )
        jobs.append(
            Job(
                backend,
                (run_command(name, short), upscale),
                partial(_read_backend, backend),
                inputs=recipe_inputs(name),
                codes=CODES_OF_EXPORTS,
            )
        )
    return jobs


def _read_backend(backend: str, finished: Finished) -> list[Row]:
    return [{"backend": backend, "photograph": "chelsea, 451×300", "seconds": finished.seconds[1]}]


def methods(short: Short) -> list[Job]:
    """Quantisation by method, width and placement, on one model and one runtime."""
    chosen = METHODS if short.limit is None else METHODS[1:2]
    jobs = []
    for method in chosen:
        words = ("--data", "{realsr}", *short.words(full=5), "--iqa-weights", "{iqa_weights}")
        more = ("--images", "8", "--methods", method, "-o", "{work}/methods_rows")
        inputs = recipe_inputs("passionsr_w8a8")
        command = script("bench_quantisation", *words, *more)
        jobs.append(Job(method, (command,), partial(_read_method, method), inputs=inputs))
    return jobs


def _read_method(method: str, finished: Finished) -> list[Row]:
    """Rows of one method. The float files are every script's first row, and shown once."""
    rows = read_rows(finished)
    return rows if method == METHODS[0] else rows[1:]


def bits(short: Short) -> list[Job]:
    """Which layers stand few bits, and the choice within a budget."""
    name = "passionsr_w6a6"
    command = (
        *("python", "-m", "compress.sensitivity", recipe_file(name), "--budget", "3.25MB"),
        *("--recipe", "{out}/mixed.yaml", "-o", "{out}/sensitivity_nano.json"),
        *short.words("--images"),
    )
    return [Job(name, (command,), _read_bits, inputs=recipe_inputs(name))]


def _read_bits(finished: Finished) -> list[Row]:
    record = read_json(finished.out / "sensitivity_nano.json", "a sensitivity", dict)
    choice = record["choice"]
    return [
        {
            "budget": choice["budget"],
            "megabytes": choice["amount"] / 1e6,
            "single_errors_db": choice["predicted_psnr"],
            "together_db": choice["measured"]["psnr"],
            "layers": sum(choice["counts"].values()),
            **{f"layers_{width.lower()}": count for width, count in choice["counts"].items()},
        }
    ]


METHODS = ("ours", "minmax", *BASELINES)
INT8 = Measurement(
    name="int8",
    title="Speed of recipes' ONNX files beside their sources",
    page="integers",
    jobs=int8,
    columns=FORMS,
    is_timing=True,
    hours=1,
)
OPENVINO = Measurement(
    name="openvino_speed",
    title="The same files in OpenVINO, and NNCF's int8",
    page="integers",
    jobs=openvino,
    columns=FORMS,
    needs=("openvino_python",),
    packages=("nncf",),
    is_timing=True,
    hours=0.3,
)
REDUCE_RANGE = Measurement(
    name="reduce_range",
    title="Weights of seven bits on a processor without VNNI",
    page="integers",
    jobs=reduce_range,
    columns=FORMS,
    is_timing=True,
    hours=0.3,
)
BACKENDS = Measurement(
    name="backends",
    title="A photograph by both backends",
    page="integers",
    jobs=backends,
    columns=(
        Column("backend", "backend"),
        Column("photograph", "photograph"),
        Column("seconds", "seconds", 1, "s"),
    ),
    is_timing=True,
)
BY_METHOD = Measurement(
    name="methods",
    title="Quantisation by method, width and placement",
    page="quantisation",
    jobs=methods,
    columns=(
        Column("method", "method"),
        Column("width", "width"),
        Column("placement", "placement"),
        Column("to_fp32", "to fp32, dB", 2, "dB"),
        Column("psnr", "PSNR-Y ↑", 3, "dB"),
        Column("lpips-squeeze", "LPIPS-squeeze ↓", 4),
        Column("niqe", "NIQE ↓", 2),
        Column("size_ratio", "size", 3, "of fp32"),
        Column("error", "failed"),
    ),
    needs=("realsr", "iqa_weights"),
    packages=("torchao", "nncf"),
    hours=2,
)
BITS = Measurement(
    name="bits",
    title="Bits of each layer within a budget",
    page="quantisation",
    jobs=bits,
    columns=(
        Column("budget", "budget"),
        Column("megabytes", "MB", 3, "10^6 bytes"),
        Column("layers", "layers"),
        Column("layers_w8a8", "of 8 bits"),
        Column("layers_w6a6", "of 6 bits"),
        Column("layers_w4a4", "of 4 bits"),
        Column("single_errors_db", "sum of single errors, dB", 2, "dB"),
        Column("together_db", "all together, nothing learned, dB", 2, "dB"),
    ),
    hours=1,
    pictures=("docs/images/sensitivity_nano.png",),
)
ALL = (INT8, OPENVINO, REDUCE_RANGE, BACKENDS, BY_METHOD, BITS)
