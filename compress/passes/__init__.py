"""The compression techniques. `PASSES` is the one list of them: name in a recipe -> config class."""

from compress.passes.base import Pass
from compress.passes.quantize import Quantize
from compress.passes.strip import Strip

PASSES: dict[str, type[Pass]] = {"strip": Strip, "quantize": Quantize}
