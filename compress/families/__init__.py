"""Source models: each family builds an SRModel from a small config and reads published checkpoints into it.

A source config is a frozen pydantic model with `family`, `build()` (structure only, on the meta device)
and `load(model)` (values). `FAMILIES` is the one list of them.
"""

from compress.families.adcsr import AdcSRSource
from compress.families.edge_sd_sr import EdgeSDSRSource
from compress.families.osediff import OSEDiffSource
from compress.families.resshift import ResShiftSource
from compress.model.source import Source

FAMILIES: dict[str, type[Source]] = {
    "osediff": OSEDiffSource,
    "adcsr": AdcSRSource,
    "resshift": ResShiftSource,
    "edge_sd_sr": EdgeSDSRSource,
}
