"""A network that somebody else trained: a real GAN by every method, and its exports."""

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
from eval.results.measurements.exported import PHOTOGRAPHS, parity_row
from eval.results.measurements.integers import METHODS
from eval.results.measurements.scripts import read_rows, script
from eval.results.weights import recipe_file

RECIPE = recipe_file("spandrel_w8a8")
SOURCE = "source.path={gan}"
PAIRS = 100
SIZE = ("--lr-size", "64x64")
# Target -> the forms that it takes, and the Python that has its package.
TARGETS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "onnx": (("fp32", "fp16", "w8a8"), None),
    "openvino": (("fp32", "fp16", "w8a8"), "openvino_python"),
    "litert": (("fp32", "fp16", "w8a8"), "litert_python"),
    "qnn": (("fp16", "w8a8"), "qnn_python"),
    "ncnn": (("fp32", "fp16", "w8a8"), "ncnn_python"),
}
OWN_TOOLS = ("litert", "ncnn")  # they quantise float models themselves


def methods(short: Short) -> list[Job]:
    """The GAN by each method in 8 and 6 bits, beside its float file; speeds on one thread."""
    words = ("--data", "{realsr}", *short.words(full=PAIRS), "--iqa-weights", "{iqa_weights}")
    more = ("--images", "16", "--widths", "W8A8", "W6A6", "--threads", "1", "-o", "{work}/gan_rows")
    return [
        Job(
            method,
            (script("bench_quantisation", RECIPE, SOURCE, *words, *more, "--methods", method),),
            partial(_read_method, method),
            inputs=(RECIPE,),
        )
        for method in METHODS
        if method != "torchao-weight-only"
    ]


def _read_method(method: str, finished: Finished) -> list[Row]:
    """Rows of one method. The float file is every script's first row, and shown once."""
    rows = read_rows(finished)
    return rows if method == METHODS[0] else rows[1:]


def exports(short: Short) -> list[Job]:
    """The GAN in float, and quantised by the recipe, for each target."""
    return [_export(target, dtype) for target, dtype in _cases()[: short.limit]]


def _cases() -> list[tuple[str, str]]:
    return [(target, dtype) for target, (dtypes, _) in TARGETS.items() for dtype in dtypes]


def _export(target: str, dtype: str) -> Job:
    _, need = TARGETS[target]
    # The compiler of QNN has a Python of its own; other packages stand beside this toolkit.
    python = "python" if need is None or target == "qnn" else f"{{{need}}}"
    is_quantised = dtype == "w8a8" and target not in OWN_TOOLS
    passes = () if is_quantised else ("passes=[]",)
    make = (
        *("python", "-m", "compress.run", RECIPE, SOURCE, *passes, "export=[]"),
        *("eval.data=[]", "--out", "{out}/run", "--resume"),
    )
    probes = PHOTOGRAPHS[:1] if target == "qnn" else PHOTOGRAPHS
    write = (
        *(python, "-m", "export.run", "{out}/run", "--target", target, "--dtype", dtype, *SIZE),
        *("-o", "{out}/export", *[word for probe in probes for word in ("--probe", probe)]),
        *(("--python", "{qnn_python}") if target == "qnn" else ()),
    )
    return Job(
        f"{target} {dtype}",
        (make, write),
        partial(parity_row, target, dtype, "realesr-general-x4v3"),
        inputs=(RECIPE,),
        codes=CODES_OF_EXPORTS,
    )


def autoencoder(short: Short) -> list[Job]:
    """TAESD on RealSR's photographs, its decoder in float and in 8 bits."""
    words = ("{taesd}", "--data", "{realsr}", *short.words(full=PAIRS))
    return [Job("taesd", (script("bench_taesd", *words),), read_rows)]


TAESD = Measurement(
    name="taesd",
    title="TAESD on RealSR's photographs, its decoder quantised",
    page="quantisation",
    jobs=autoencoder,
    columns=(
        Column("method", "method"),
        Column("placement", "placement"),
        Column("to_fp32_db", "to fp32, dB", 2, "dB"),
        Column("to_originals_db", "PSNR of RGB ↑", 2, "dB"),
        Column("to_originals_luma_db", "PSNR-Y ↑", 2, "dB"),
        Column("images", "images"),
    ),
    needs=("realsr", "taesd"),
    edition=2,  # from here on with PSNR-Y, and biases in the codes of runtimes
    hours=0.3,
)
GAN = Measurement(
    name="gan",
    title="A real GAN by every method of quantisation, on RealSR",
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
        Column("speed", "speed", 2, "of fp32"),
        Column("error", "failed"),
    ),
    needs=("realsr", "iqa_weights", "gan"),
    packages=("torchao", "nncf", "spandrel"),
    edition=3,  # from here on with speeds in processor time
    hours=4,
)
GAN_PARITY = Measurement(
    name="gan_parity",
    title="The real GAN on five targets",
    page="export",
    jobs=exports,
    columns=(
        Column("target", "target"),
        Column("dtype", "dtype"),
        Column("parity_db", "to torch, dB", unit="dB"),
        Column("passed", "above its threshold"),
        Column("kilobytes", "kB", 0, "10^3 bytes"),
    ),
    needs=("gan", "openvino_python", "litert_python", "qnn_python", "ncnn_python"),
    packages=("spandrel",),
    hours=0.5,
)
ALL = (GAN, GAN_PARITY, TAESD)
