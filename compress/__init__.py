"""Compression of one-step diffusion super-resolution models for on-device use."""

from compress.torchvision_ops import ensure_torchvision_imports

ensure_torchvision_imports()

__version__ = "0.1.0"
