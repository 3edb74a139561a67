"""Source models: each family builds an SRModel from a small config and reads published checkpoints into it.

A source config is a frozen pydantic model with `family`, `build()` (structure only, on the meta device)
and `load(model)` (values). `FAMILIES` is the one list of them.
"""

from compress.sources.adcsr import AdcSRSource
from compress.sources.edge_sd_sr import EdgeSDSRSource
from compress.sources.osediff import OSEDiffSource
from compress.sources.resshift import ResShiftSource

FAMILIES = {
    "osediff": OSEDiffSource,
    "adcsr": AdcSRSource,
    "resshift": ResShiftSource,
    "edge_sd_sr": EdgeSDSRSource,
}
