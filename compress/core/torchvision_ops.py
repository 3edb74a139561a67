"""Let torchvision be imported beside a torch whose build does not match its compiled operators.

torchvision registers meta kernels for `torchvision::nms` while it is imported. It dies with
`operator torchvision::nms does not exist` where its C++ library was built for CUDA and torch was
not. Declaring the two schemas first is enough for the import. Nothing in this project calls the
operators themselves. Where torchvision is healthy this module changes nothing.

The declaration waits until somebody imports torchvision: it needs torch, which takes seconds.
"""

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

# The declarations live as long as the Library object does.
_declared: list[Any] = []


class _BeforeTorchvision(MetaPathFinder):
    """Declares the schemas when torchvision is looked for, and leaves the finding to others."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Always None, so that the usual finders go on."""
        if name == "torchvision":
            sys.meta_path.remove(self)
            declare_missing_schemas()
        return None


def prepare_for_torchvision() -> None:
    """Have the missing schemas declared as soon as torchvision is imported.

    It costs nothing before.
    """
    waiting = any(isinstance(finder, _BeforeTorchvision) for finder in sys.meta_path)
    if "torchvision" not in sys.modules and not waiting and not _declared:
        sys.meta_path.insert(0, _BeforeTorchvision())


def declare_missing_schemas() -> bool:
    """Declare `nms` and `qnms` where no library did. Returns whether anything was declared."""
    import torch

    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return False
    _load_compiled_operators()
    missing = [name for name in _SCHEMAS if not _is_known(name)]
    if missing:
        library = torch.library.Library("torchvision", "DEF")
        for name in missing:
            library.define(_SCHEMAS[name])
        _declared.append(library)
    return bool(missing)


def _is_known(name: str) -> bool:
    """Whether torch has a kernel or a schema of `torchvision::NAME`."""
    import torch

    operator = f"torchvision::{name}"
    if torch._C._dispatch_has_kernel(operator):
        return True
    return any(schema.name == operator for schema in torch._C._jit_get_all_schemas())


def _load_compiled_operators() -> None:
    """Load torchvision's own C++ library, as its import would do; a broken one is left alone."""
    import torch

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
                return  # built for another torch: the schemas take its place
