"""Diffusion processes and the image-side steps around them, as pure functions and small modules."""
