"""Let a CPU-only torch live beside a torchvision wheel whose compiled ops do not load.

torchvision registers meta kernels for ``torchvision::nms`` at import time and dies with
``operator torchvision::nms does not exist`` when its C++ library (built for CUDA) could not be
loaded. Declaring the two schemas first is enough for the import; nothing in this project calls
the ops themselves. Where torchvision is healthy this module changes nothing.
"""

import importlib.util
import os
import sys

import torch

# The declarations live as long as the Library object does.
_library: torch.library.Library | None = None

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def _missing(name: str) -> bool:
    return not torch._C._dispatch_has_kernel(f"torchvision::{name}") and not _has_schema(name)


def _has_schema(name: str) -> bool:
    return any(s.name == f"torchvision::{name}" for s in torch._C._jit_get_all_schemas())


def _load_compiled_ops() -> None:
    """Load torchvision's own C++ library, as its import would do; a broken one is left alone."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    folder = os.path.dirname(spec.origin)
    for name in ("_C.so", "_C.pyd"):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            try:
                torch.ops.load_library(path)
            except (OSError, RuntimeError):
                return  # built for another torch: the schemas below take its place


def ensure_torchvision_imports() -> bool:
    """Declare ``nms`` and ``qnms`` if they are missing. Returns whether anything was declared."""
    global _library
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return False
    _load_compiled_ops()
    missing = [name for name in _SCHEMAS if _missing(name)]
    if missing:
        _library = torch.library.Library("torchvision", "DEF")
        for name in missing:
            _library.define(_SCHEMAS[name])
    return bool(missing)
