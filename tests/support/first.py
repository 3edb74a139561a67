"""What has to happen before anything else is imported."""

# First of all: it lets torchvision load beside a torch without CUDA.
import compress  # noqa: F401  # isort: skip

from compress.core.quick_start import import_quickly

# As in every command. A worker has 3 s less to do.
import_quickly()
