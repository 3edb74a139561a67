"""Removing channels: which axes of which layers belong together, which channels stay, and the cut itself."""
