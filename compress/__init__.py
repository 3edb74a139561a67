"""Compression of one-step diffusion super-resolution models for on-device use."""

import logging

from compress.core.errors import guard_imports

guard_imports()  # first of all: what follows may take seconds

from compress.core.torchvision_ops import prepare_for_torchvision  # noqa: E402

# Importing diffusers imports these, and they warn about GPU kernels that nothing here uses.
for _name in (
    "torchao",
    "bitsandbytes",
    "diffusers.quantizers.torchao.torchao_quantizer",
    "torch.utils._pytree",
):
    logging.getLogger(_name).setLevel(logging.ERROR)

prepare_for_torchvision()

__version__ = "0.1.0"
