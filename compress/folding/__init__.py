"""Exact algebra on weights: what is constant or linear is folded into the layers beside it."""
