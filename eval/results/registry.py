"""The one list of measurements."""

from eval.results.measurement import Measurement
from eval.results.measurements import (
    exported,
    integers,
    large,
    pictures,
    pruning,
    quality,
    recipes,
    router,
    trained,
)

MEASUREMENTS: dict[str, Measurement] = {
    measurement.name: measurement
    for measurement in (
        quality.MODELS,
        quality.PUBLISHED,
        quality.DENOISER,
        recipes.MEASURED,
        recipes.PARETO,
        pictures.SHEET,
        *integers.ALL,
        *trained.ALL,
        *router.ALL,
        pruning.PRUNING,
        *exported.PARITIES,
        exported.OPERATORS,
        exported.ALONE,
        *large.ALL,
    )
}
