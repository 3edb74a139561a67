"""Measuring restored images, and drawing and reporting what was measured."""

import compress  # noqa: F401  first: torchvision then loads beside a torch without CUDA
