"""Compressed models as files for runtimes: ONNX, its parity with torch, and its latency beside a reference."""

import compress  # noqa: F401  (puts torchvision's operators in order before diffusers is imported)
