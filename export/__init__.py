"""Compressed models as files for runtimes: ONNX, parity with torch, latency, NPUs."""

import compress  # noqa: F401  (puts torchvision's operators in order before diffusers is imported)
