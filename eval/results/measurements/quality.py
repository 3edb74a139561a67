"""Quality on RealSR: the embedded models, every recipe, the denoiser's share, pictures."""

from functools import partial

from eval.results.measurement import Column, Job, Measurement, Short
from eval.results.measurements.evaluated import (
    BENCHMARK,
    COUNTS,
    UNTRAINED,
    on_realsr,
    read_model,
    read_pictures,
)
from eval.results.measurements.scripts import read_rows, script
from eval.results.provenance import ROOT
from eval.results.weights import NANO

NAMES = {file: file.rpartition("/")[2].removesuffix(".safetensors") for file in NANO.values()}
MODEL = Column("model", "model")


def models(short: Short) -> list[Job]:
    """The embedded models as they are, and bicubic enlargement."""
    enlarged = Job(
        "bicubic",
        (
            ("python", "tests/bench/enlarge.py", "{realsr}/LR", "-o", "{out}/pictures"),
            on_realsr("{out}/pictures", short),
        ),
        partial(read_pictures, "bicubic (Pillow)"),
    )
    embedded = [
        Job(
            name,
            (on_realsr(file, short),),
            partial(read_model, f"`{name}`", ROOT / file),
            inputs=(file,),
        )
        for file, name in NAMES.items()
    ]
    return [enlarged, *embedded]


def published(short: Short) -> list[Job]:
    """OSEDiff's pictures as its authors published them, scored by our code."""
    label = "OSEDiff's published outputs"
    return [Job(label, (on_realsr("{published}", short),), partial(read_pictures, label))]


def denoiser(short: Short) -> list[Job]:
    """The result with the denoiser's prediction set to zero, against the result."""
    options = ("--data", "{realsr}", *short.words(full=10))
    return [
        Job(name, (script("bench_denoiser", file, *options),), read_rows, inputs=(file,))
        for file, name in NAMES.items()
    ]


MODELS = Measurement(
    name="models",
    title="The embedded models as they are, on RealSR",
    page="quality",
    jobs=models,
    columns=(MODEL, *COUNTS, *BENCHMARK, *UNTRAINED),
    needs=("realsr", "iqa_weights"),
    hours=0.5,
)
PUBLISHED = Measurement(
    name="published",
    title="OSEDiff's published pictures by the same code",
    page="quality",
    jobs=published,
    columns=(MODEL, *BENCHMARK, *UNTRAINED),
    needs=("realsr", "published", "iqa_weights"),
    hours=0.1,
)
DENOISER = Measurement(
    name="denoiser",
    title="What the denoiser adds to the result",
    page="quality",
    jobs=denoiser,
    columns=(
        MODEL,
        Column("zero_db", "zero prediction, to the result, dB", 2, "dB"),
        Column("whole_to_originals_db", "result to originals, dB", 2, "dB"),
        Column("zero_to_originals_db", "zero prediction to originals, dB", 2, "dB"),
        Column("images", "images"),
    ),
    needs=("realsr",),
)
