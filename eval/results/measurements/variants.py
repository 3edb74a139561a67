"""One model with and without a pass that takes computation away, on RealSR."""

from collections.abc import Mapping
from functools import partial

from compress.recipe.checkpoint import MODEL_FILE
from compress.recipe.run_files import read_fidelity
from eval.results.measurement import Column, Finished, Job, Measurement, Row, Short
from eval.results.measurements.evaluated import BENCHMARK, COUNTS, averages, counts, on_realsr
from eval.results.weights import recipe_inputs

STRIP = "{pass: strip, text: constant, timestep: fold}"
# How AddSR's image tokens are made -> the passes behind its strip.
TOKENS = {
    "of the photograph": "",
    "their mean": ", {pass: freeze, component: tokens, value: mean, "
    "calibration: {data: embedded, images: 16, size: 64}}",
    "zero": ", {pass: freeze, component: tokens, value: zero}",
}
ADDSR = ("source.steps=2",)  # which the nano has learnt
NEAR = ", {pass: near_attention, components: [noise_predictor], kind: "
WINDOWS = f"{NEAR}windows, side: 8}}"
# What a pixel of InvSR's noise predictor looks at -> the passes behind its strip.
ATTENTION = {
    "all pixels": "",
    "windows of 8": WINDOWS,
    "averages of 4 by 4": f"{NEAR}averages, side: 4}}",
    "none": f"{NEAR}none}}",
    "windows of 8, distilled": f"{WINDOWS}, {{pass: distill, stage: student, target: teacher, "
    "losses: {latent: 1.0, l1: 1.0}, steps: 800, batch: 8, lr: 1.0e-3, "
    "train: [noise_predictor.*]}",
}


def _jobs(
    recipe: str, column: str, ways: Mapping[str, str], overrides: tuple[str, ...], short: Short
) -> list[Job]:
    """A job for each way: the recipe's source with other passes."""
    return [_job(recipe, column, way, ways[way], overrides, short) for way in ways]


def _job(
    recipe: str, column: str, way: str, passes: str, overrides: tuple[str, ...], short: Short
) -> Job:
    run = (
        *("python", "-m", "compress.run", f"recipes/{recipe}.yaml", *overrides),
        f"passes=[{STRIP}{passes}]",
        *("export=[]", "--out", "{out}/run", "--resume"),
    )
    return Job(
        way,
        (run, on_realsr("{out}/run", short, out="{out}/run/eval/RealSR")),
        partial(_read, column, way),
        inputs=recipe_inputs(recipe),
    )


def _read(column: str, way: str, finished: Finished) -> list[Row]:
    folder = finished.out / "run"
    fidelity = list(read_fidelity(folder / "eval" / "embedded").values())
    row: Row = {column: way, **counts(folder / MODEL_FILE)}
    row["to_source_db"] = sum(fidelity) / len(fidelity)
    return [row | averages(folder / "eval" / "RealSR")]


def _columns(key: str, title: str, *more: Column) -> tuple[Column, ...]:
    to_source = Column("to_source_db", "to the source, dB", 1, "dB")
    return (Column(key, title), *COUNTS, *more, to_source, *BENCHMARK)


IMAGE_TOKENS = Measurement(
    name="image_tokens",
    title="AddSR's image tokens as constants, on RealSR",
    page="quality",
    jobs=partial(_jobs, "addsr_w8a8", "tokens", TOKENS, ADDSR),
    columns=_columns("tokens", "image tokens"),
    needs=("realsr", "iqa_weights"),
    hours=0.3,
)
NEAR_ATTENTION = Measurement(
    name="near_attention",
    title="Cheaper attention in InvSR's noise predictor, on RealSR",
    page="quality",
    jobs=partial(_jobs, "invsr_w8a8", "looks_at", ATTENTION, ()),
    columns=_columns(
        "looks_at",
        "a pixel looks at",
        Column("full_gmacs", "with attention's products", 2, "10^9 at 128 → 512"),
    ),
    needs=("realsr", "iqa_weights"),
    hours=0.4,
)
ALL = (IMAGE_TOKENS, NEAR_ATTENTION)
