"""Runs of recipes in 8 bits, compiled for Snapdragon's HTP and run in Qualcomm's simulator."""

from functools import partial

from eval.results.measurement import CODES_OF_EXPORTS, Column, Job, Measurement, Short
from eval.results.measurements.exported import PHOTOGRAPHS, SIZE, parity_row
from eval.results.measurements.recipes import run_command, run_of
from eval.results.weights import recipe_inputs

TARGET, DTYPE = "qnn", "w8a8"
RECIPES = (
    "passionsr_full_w8a8",
    "dfosd_w8a8",
    "invsr_w8a8",
    "ccsr_w8a8",
    "addsr_w8a8",
    "dossr_w8a8",
    "tsdsr_w8a8",
)


def simulated(short: Short) -> list[Job]:
    """A job for each recipe: its run, and its export with one context a part."""
    return [_job(name, short) for name in RECIPES[: short.limit]]


def _job(name: str, short: Short) -> Job:
    run = run_of(name, short)
    export = (
        *("python", "-m", "export.run", run, "--target", TARGET, "--dtype", DTYPE, *SIZE),
        *("--probe", PHOTOGRAPHS[0], "--python", "{qnn_python}", "-o", "{out}/export"),
    )
    return Job(
        name,
        (run_command(name, short), export),
        partial(parity_row, TARGET, DTYPE, f"`{name}`"),
        inputs=recipe_inputs(name),
        codes=CODES_OF_EXPORTS,
    )


SIMULATED = Measurement(
    name="simulated",
    title="Runs of recipes in the HTP's simulator",
    page="export",
    jobs=simulated,
    columns=(
        Column("model", "recipe"),
        Column("dtype", "dtype"),
        Column("parity_db", "to torch, dB", unit="dB"),
        Column("passed", "above its threshold"),
        Column("kilobytes", "kB", 0, "10^3 bytes"),
    ),
    needs=("qnn_python",),
    hours=1,
)
