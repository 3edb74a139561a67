"""Source models: each family builds an SRModel from a small config and reads published weights.

A family stands above the passes, because a published compressed model may be made of them.
`FAMILIES` is the one list of families.
"""

from compress.families.adcsr import AdcSRSource
from compress.families.addsr import AddSRSource
from compress.families.ccsr import CCSRSource
from compress.families.dfosd import DFOSDSource
from compress.families.diffusers_pipeline import DiffusersSource
from compress.families.dossr import DoSSRSource
from compress.families.edge_sd_sr import EdgeSDSRSource
from compress.families.invsr import InvSRSource
from compress.families.ldm import LDMSource
from compress.families.osediff import OSEDiffSource
from compress.families.resshift import ResShiftSource
from compress.families.spandrel import SpandrelSource
from compress.families.tsdsr import TSDSRSource
from compress.model.source import Source

FAMILIES: dict[str, type[Source]] = {
    "osediff": OSEDiffSource,
    "adcsr": AdcSRSource,
    "resshift": ResShiftSource,
    "edge_sd_sr": EdgeSDSRSource,
    "dfosd": DFOSDSource,
    "invsr": InvSRSource,
    "ccsr": CCSRSource,
    "addsr": AddSRSource,
    "dossr": DoSSRSource,
    "tsdsr": TSDSRSource,
    "ldm": LDMSource,
    "spandrel": SpandrelSource,
    "diffusers_pipeline": DiffusersSource,
}
