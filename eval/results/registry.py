"""The one list of measurements."""

from eval.results.measurement import Measurement
from eval.results.measurements import pruning, quality

MEASUREMENTS: dict[str, Measurement] = {
    measurement.name: measurement
    for measurement in (
        quality.MODELS,
        quality.PUBLISHED,
        quality.DENOISER,
        pruning.PRUNING,
    )
}
