"""AddSR's image tokens as constants, which spares the network that makes them."""

from functools import partial

from compress.recipe.checkpoint import MODEL_FILE
from compress.recipe.run_files import read_fidelity
from eval.results.measurement import Column, Finished, Job, Measurement, Row, Short
from eval.results.measurements.evaluated import BENCHMARK, COUNTS, averages, counts, on_realsr
from eval.results.weights import recipe_inputs

RECIPE = "addsr_w8a8"
STEPS = 2  # which the nano has learnt
# How the tokens are made -> the passes behind its strip.
WAYS = {
    "of the photograph": "",
    "their mean": ", {pass: freeze, component: tokens, value: mean, "
    "calibration: {data: embedded, images: 16, size: 64}}",
    "zero": ", {pass: freeze, component: tokens, value: zero}",
}


def image_tokens(short: Short) -> list[Job]:
    """A job for each way."""
    return [_job(way, passes, short) for way, passes in WAYS.items()]


def _job(way: str, passes: str, short: Short) -> Job:
    run = (
        *("python", "-m", "compress.run", f"recipes/{RECIPE}.yaml", f"source.steps={STEPS}"),
        f"passes=[{{pass: strip, text: constant, timestep: fold}}{passes}]",
        *("export=[]", "--out", "{out}/run", "--resume"),
    )
    return Job(
        way,
        (run, on_realsr("{out}/run", short, out="{out}/run/eval/RealSR")),
        partial(_read, way),
        inputs=recipe_inputs(RECIPE),
    )


def _read(way: str, finished: Finished) -> list[Row]:
    folder = finished.out / "run"
    fidelity = list(read_fidelity(folder / "eval" / "embedded").values())
    row: Row = {"tokens": way, **counts(folder / MODEL_FILE)}
    row["to_source_db"] = sum(fidelity) / len(fidelity)
    return [row | averages(folder / "eval" / "RealSR")]


IMAGE_TOKENS = Measurement(
    name="image_tokens",
    title="AddSR's image tokens as constants, on RealSR",
    page="quality",
    jobs=image_tokens,
    columns=(
        Column("tokens", "image tokens"),
        *COUNTS,
        Column("to_source_db", "to the source, dB", 1, "dB"),
        *BENCHMARK,
    ),
    needs=("realsr", "iqa_weights"),
    hours=0.3,
)
