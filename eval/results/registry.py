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
    sweep,
    tokens,
    trained,
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
        tokens.IMAGE_TOKENS,
        pruning.PRUNING,
        sweep.SWEEP,
        *exported.PARITIES,
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
