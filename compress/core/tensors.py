"""Reading saved tensors, with errors that say what does not fit: names, shapes, types, values."""

import pickle
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from compress.core.errors import UserError
from compress.core.weight_file import is_finite

State = dict[str, torch.Tensor]
UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    AssertionError,
    OverflowError,
    MemoryError,
    OSError,
    struct.error,
)
# The floating-point types of weights, by their bytes. float64 is none of them: nothing here computes in it.
FLOATS = {torch.float16: 2, torch.bfloat16: 2, torch.float32: 4}


class Inert:
    """Stands in for every foreign class of a pickled file: takes any arguments and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def few(names: Iterable[str], count: int = 3) -> str:
    """The first `count` in alphabetical order, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:count]) + (
        f" and {len(names) - count} more" if len(names) > count else ""
    )


def kind_of(value: Any) -> str:
    """What a value of a foreign file is, in words that hold nothing of its content."""
    if isinstance(value, Inert):
        return "a foreign object"
    if isinstance(value, torch.Tensor):
        return "a tensor"
    names = {
        dict: "a mapping",
        list: "a list",
        tuple: "a tuple",
        str: "text",
        int: "a number",
        float: "a number",
        bool: "a truth value",
        type(None): "nothing",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def kinds_in(value: Any) -> str:
    """The same, with the first names of a mapping."""
    if isinstance(value, dict) and value:
        return f"a mapping with {few(str(key)[:60] if isinstance(key, str) else kind_of(key) for key in value)}"
    return "an empty mapping" if isinstance(value, dict) else kind_of(value)


def plain_name(name: str) -> str:
    """A tensor's own name: without "module." of data-parallel training and "_orig_mod." of torch.compile."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


def named_tensors(content: Any, where: str, wanted: str) -> State:
    """`content`, what a foreign file holds, as dense tensors by their plain names.

    Raises UserError for anything else in it, and where two names become one.
    """
    if not isinstance(content, dict):
        raise UserError(
            f"{where}: holds {kinds_in(content)} instead of named tensors; give {wanted}"
        )
    state: State = {}
    for name, value in content.items():
        if not isinstance(name, str):
            raise UserError(f"{where}: holds {kind_of(name)} as a tensor's name; give {wanted}")
        if not isinstance(value, torch.Tensor):
            raise UserError(
                f"{where}: '{name[:80]}' is {kind_of(value)} instead of a tensor; give {wanted}"
            )
        if (
            value.layout != torch.strided
            or value.is_quantized
            or value.is_complex()
            or value.is_meta
        ):
            raise UserError(
                f"{where}: '{name[:80]}' is no dense tensor of real numbers; give {wanted}"
            )
        if plain_name(name) in state:
            raise UserError(
                f"{where}: holds '{plain_name(name)[:80]}' twice, once with a prefix; give {wanted}"
            )
        state[plain_name(name)] = value
    return state


def float_tensors(content: Any, where: str, wanted: str) -> State:
    """`named_tensors`, all of them floating point and finite."""
    state = named_tensors(content, where, wanted)
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            raise UserError(
                f"{where}: '{name[:80]}' is stored as {str(tensor.dtype).removeprefix('torch.')}, where "
                f"floating point belongs; give {wanted}"
            )
        if not is_finite(tensor):
            raise UserError(f"{where}: '{name[:80]}' holds NaN or infinity; give {wanted}")
    return state


def is_legal(want: torch.dtype, found: torch.dtype) -> bool:
    """Whether a value stored as `found` may be computed with as `want`: the same, or floats that become wider."""
    narrower = want in FLOATS and found in FLOATS and FLOATS[found] < FLOATS[want]
    return found == want or narrower


def check_type(name: str, want: torch.Tensor, found: torch.Tensor, where: str, remedy: str) -> None:
    """Raise UserError unless `found` has a legal type for `want` and finite values."""
    if not is_legal(want.dtype, found.dtype):
        stored, wide = (str(dtype).removeprefix("torch.") for dtype in (found.dtype, want.dtype))
        raise UserError(
            f"{where}: {name} is stored as {stored}, where {wide} belongs"
            + " or a narrower floating-point type" * (want.dtype in FLOATS)
            + f"; {remedy}"
        )
    if not is_finite(found):
        raise UserError(f"{where}: {name} holds NaN or infinity; {remedy}")


def check_fit(expected: State, found: State, where: str, wanted: str) -> None:
    """Raise UserError unless both have the same names and shapes, and `found` legal types and finite values.

    `wanted` says whose tensors are expected. Foreign checkpoints may also be wider than they are computed in.
    """
    shapes = [
        f"{k} {tuple(found[k].shape)} instead of {tuple(expected[k].shape)}"
        for k in expected.keys() & found.keys()
        if expected[k].shape != found[k].shape
    ]
    wrong = [
        (kind, names)
        for kind, names in (
            ("missing", expected.keys() - found.keys()),
            ("unexpected", found.keys() - expected.keys()),
            ("of another shape", shapes),
        )
        if names
    ]
    if wrong:
        report = "; ".join(f"{len(names)} {kind}: {few(names)}" for kind, names in wrong)
        raise UserError(f"{where}: another architecture than {wanted} ({report}); give {wanted}")
    for name in sorted(expected):
        both_float = expected[name].is_floating_point() and found[name].is_floating_point()
        check_type(
            name,
            found[name] if both_float else expected[name],
            found[name],
            where,
            f"give {wanted}",
        )


def check_values(model: nn.Module, where: str) -> None:
    """Raise UserError for the first scale, zero point or code of a quantised layer that cannot be one.

    A module with such tensors says what is wrong by `value_problem()`: a tensor's name and a reason, or None.
    """
    for name, module in model.named_modules():
        told = getattr(module, "value_problem", None)
        if told is not None and (problem := told()) is not None:
            tensor, reason = problem
            raise UserError(
                f"{where}: {name}.{tensor} {reason}; the file is damaged, fetch or write it again"
            )


def svd_factors(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the best approximation of a matrix by a product of two narrow ones.

    Singular values are split evenly between the factors.

    Args:
        matrix: [rows, columns], floating point.
        rank: Of the product. Fewer where the matrix has fewer singular values.

    Returns:
        `up` [rows, rank] and `down` [rank, columns], whose product is near `matrix`.
    """
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    count = len(root)
    return u[:, :count] * root, root[:, None] * v[:count]


def read_tensors(model: nn.Module, file: Path) -> None:
    """Assign the tensors of the safetensors `file` to `model`. Raises UserError saying what does not fit."""
    state, remedy = {}, "fetch or write the file again"
    expected = model.state_dict()
    try:
        with safe_open(file, framework="pt") as reader:
            found = list(reader.keys())
            shapes = {
                name: torch.empty(reader.get_slice(name).get_shape(), device="meta")
                for name in found
            }
            check_fit(
                {
                    name: torch.empty_like(value, dtype=torch.float32, device="meta")
                    for name, value in expected.items()
                },
                shapes,
                str(file),
                "weights of this model",
            )
            for name in found:
                tensor = reader.get_tensor(name)
                check_type(name, expected[name], tensor, str(file), remedy)
                # Weights may be stored narrower than they are computed in.
                state[name] = tensor.to(expected[name].dtype)
    except (SafetensorError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise UserError(f"{file}: not a readable safetensors file ({reason}); {remedy}") from None
    model.load_state_dict(state, strict=True, assign=True)
    check_values(model, str(file))


def read_pickle(path: str, key: str, wanted: str) -> Any:
    """What `torch.save` wrote to `path`, on the CPU; no code of the file runs, and foreign objects come as `Inert`.

    Training checkpoints hold such objects beside their tensors. Raises UserError naming the recipe's `key` for a file
    that is absent or no checkpoint; `wanted` is the file to give instead.
    """
    if not Path(path).is_file():
        raise UserError(f"{key}: {path} is no file; give the path of {wanted}")
    try:
        foreign = get_unsafe_globals_in_checkpoint(path)
    except UNREADABLE:  # an old file or none of torch's, which the loader below can tell
        foreign = []
    try:
        with safe_globals([(Inert, name) for name in foreign]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise UserError(
            f"{key}: {path} cannot be read as tensors, names and numbers alone ({type(error).__name__}); "
            f"give {wanted}, or its tensors saved by themselves"
        ) from None
