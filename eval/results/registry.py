"""The one list of measurements."""

from eval.results.measurement import Measurement
from eval.results.measurements import (
    adaptive,
    browser,
    chains,
    exported,
    foreign,
    full_sizes,
    integers,
    large,
    phones,
    pictures,
    pruning,
    quality,
    recipes,
    references,
    router,
    simulated,
    sweep,
    trained,
    variants,
)

MEASUREMENTS: dict[str, Measurement] = {
    measurement.name: measurement
    for measurement in (
        quality.MODELS,
        quality.PUBLISHED,
        quality.DENOISER,
        recipes.MEASURED,
        pictures.SHEET,
        *integers.ALL,
        chains.STEP_RANGES,
        *trained.ALL,
        *router.ALL,
        *adaptive.ALL,
        references.REFERENCES,
        *variants.ALL,
        pruning.PRUNING,
        sweep.SWEEP,
        *exported.PARITIES,
        simulated.SIMULATED,
        exported.OPERATORS,
        exported.ALONE,
        exported.DELEGATES,
        exported.RESIDENCY,
        browser.WEBGPU,
        *foreign.ALL,
        *large.ALL,
        *full_sizes.ALL,
        *phones.ALL,
    )
}
