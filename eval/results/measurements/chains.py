"""Chains of several steps in few bits: one range for all steps, or one for each."""

from eval.results.measurement import Column, Job, Measurement, Short
from eval.results.measurements.scripts import read_rows, script
from eval.results.weights import NANO

# Families whose nano serves a chain, with steps of it.
CHAINS = (("invsr", 2), ("invsr", 5), ("ccsr", 2), ("addsr", 2), ("dossr", 3), ("dossr", 5))


def step_ranges(short: Short) -> list[Job]:
    """A job for each chain."""
    return [_job(family, steps) for family, steps in CHAINS[: short.limit]]


def _job(family: str, steps: int) -> Job:
    command = script("bench_step_ranges", family, str(steps))
    return Job(f"{family}, {steps} steps", (command,), read_rows, inputs=(NANO[family],))


STEP_RANGES = Measurement(
    name="step_ranges",
    title="One range for all steps of a chain, or one for each",
    page="quantisation",
    jobs=step_ranges,
    columns=(
        Column("family", "family"),
        Column("steps", "steps", 0),
        Column("width", "width"),
        Column("shared", "one range for all, dB", 1, "dB"),
        Column("by_step", "one for each step, dB", 1, "dB"),
    ),
    hours=0.2,
)
