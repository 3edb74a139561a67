"""Removing channels and blocks: what belongs together, what stays, and the cut itself."""
