"""Forms of an exported graph that onnxruntime's CPU kernels run faster: the same values.

They use operators of the standard, and are for graphs with integer convolutions (placement `cpu`).
Whoever compares such a file with one in floating point gives both the same forms. NPUs have their
own (export/rewrites); some of these are slow or missing there.
"""

from collections.abc import Callable

import onnx_ir as ir

from export.graphs.cpu_forms.attention import attention
from export.graphs.cpu_forms.norms import affine, parts, squares
from export.graphs.cpu_forms.pixels import crop, nearest, shuffle
from export.graphs.edit import clean

__all__ = ["FORMS", "cpu_forms"]

# Name -> function(model): changes the model in place, returns how many places. They go in order.
FORMS: dict[str, Callable[[ir.Model], int]] = {
    "affine": affine,
    "squares": squares,
    "nearest": nearest,
    "shuffle": shuffle,
    "crop": crop,
    "parts": parts,
    "attention": attention,
}


def cpu_forms(model: ir.Model) -> dict[str, int]:
    """Give a graph all of these forms, in place, before its shapes are dropped.

    Returns:
        Form -> how many places it changed.
    """
    done = {name: form(model) for name, form in FORMS.items()}
    clean(model)
    return done
