"""Random values for a structure, as benchmarks and tests call them."""

from compress.model.untrained import randomise

__all__ = ["randomise"]
