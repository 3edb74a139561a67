"""Measuring restored images, and drawing and reporting what was measured."""

import compress  # noqa: F401  first: it lets torchvision, which pyiqa imports, load beside a CPU-only torch
