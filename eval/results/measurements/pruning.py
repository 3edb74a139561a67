"""What pruning alone costs, and what it gives in torch."""

from eval.results.measurement import Column, Job, Measurement, Short
from eval.results.measurements.scripts import read_rows, script
from eval.results.weights import NANO

RATIOS = ("0.75", "0.5")


def pruning(short: Short) -> list[Job]:
    """Choices of channels, by component and ratio."""
    return [
        Job(
            f"{component} {ratio}",
            (script("bench_prune", "--components", component, "--ratios", ratio, *short.words()),),
            read_rows,
            inputs=(NANO["osediff"],),
        )
        for component in ("denoiser", "decoder")
        for ratio in RATIOS
    ]


PRUNING = Measurement(
    name="pruning",
    title="What pruning costs before any training",
    page="pruning",
    jobs=pruning,
    columns=(
        Column("component", "component"),
        Column("ratio", "ratio", 2),
        Column("first", "first", 2, "dB"),
        Column("dependency", "dependency", 2, "dB"),
        Column("l1", "l1", 2, "dB"),
        Column("activation", "activation", 2, "dB"),
    ),
)
