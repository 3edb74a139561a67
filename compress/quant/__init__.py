"""Quantisers: their maths, the layers that carry them, and how their ranges are learned."""
