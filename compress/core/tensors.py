"""Reading saved tensors, with errors that say what does not fit: names, shapes, types, values."""

import pickle
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from compress.core.errors import UserError, first_line
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
# The floating-point types of weights, by their bytes. Nothing here computes in float64.
FLOATS = {torch.float16: 2, torch.bfloat16: 2, torch.float32: 4}


KINDS = {
    dict: "a mapping",
    list: "a list",
    tuple: "a tuple",
    str: "text",
    int: "a number",
    float: "a number",
    bool: "a truth value",
    type(None): "nothing",
}
MOST_KEY = 60  # characters of a mapping's key in a sentence
MOST_SHOWN = 80  # characters of a tensor's name in a sentence


class Inert:
    """Stands in for every foreign class of a pickled file: takes all arguments, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def few(names: Iterable[str], count: int = 3) -> str:
    """The first `count` in alphabetical order, and how many more there are."""
    ordered = sorted(names)
    text = ", ".join(ordered[:count])
    if len(ordered) > count:
        text += f" and {len(ordered) - count} more"
    return text


def kind_of(value: Any) -> str:
    """What a value of a foreign file is, in words that hold nothing of its content."""
    if isinstance(value, Inert):
        return "a foreign object"
    if isinstance(value, torch.Tensor):
        return "a tensor"
    return KINDS.get(type(value), f"a {type(value).__name__}")


def kinds_in(value: Any) -> str:
    """The same, with the first names of a mapping."""
    if not isinstance(value, dict):
        return kind_of(value)
    if not value:
        return "an empty mapping"
    names = [key[:MOST_KEY] if isinstance(key, str) else kind_of(key) for key in value]
    return f"a mapping with {few(names)}"


def plain_name(name: str) -> str:
    """A tensor's own name, without what training adds.

    That is "module." of data-parallel training and "_orig_mod." of torch.compile.
    """
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


def named_tensors(content: Any, where: str, wanted: str) -> State:
    """What a foreign file holds, as dense tensors by their plain names.

    Args:
        content: What the file held.
        where: What begins the sentence of an error.
        wanted: The file to give instead.

    Raises:
        UserError: Anything else is in it, or two names become one.
    """
    if not isinstance(content, dict):
        raise UserError(
            f"{where}: holds {kinds_in(content)} instead of named tensors; give {wanted}"
        )
    state: State = {}
    for name, value in content.items():
        problem = _why_no_tensor(name, value)
        if problem is not None:
            raise UserError(f"{where}: {problem}; give {wanted}")
        plain = plain_name(name)
        if plain in state:
            raise UserError(
                f"{where}: holds '{plain[:MOST_SHOWN]}' twice, once with a prefix; give {wanted}"
            )
        state[plain] = value
    return state


def _why_no_tensor(name: Any, value: Any) -> str | None:
    """What is wrong with an entry of a foreign file; None for a dense tensor under a name."""
    if not isinstance(name, str):
        return f"holds {kind_of(name)} as a tensor's name"
    if not isinstance(value, torch.Tensor):
        return f"'{name[:MOST_SHOWN]}' is {kind_of(value)} instead of a tensor"
    dense = value.layout == torch.strided and not value.is_meta
    if not dense or value.is_quantized or value.is_complex():
        return f"'{name[:MOST_SHOWN]}' is no dense tensor of real numbers"
    return None


def type_name(dtype: torch.dtype) -> str:
    """A type's name without "torch."."""
    return str(dtype).removeprefix("torch.")


def float_tensors(content: Any, where: str, wanted: str) -> State:
    """`named_tensors`, all of them floating point and finite."""
    state = named_tensors(content, where, wanted)
    for name, tensor in state.items():
        shown = f"'{name[:MOST_SHOWN]}'"
        if not tensor.is_floating_point():
            raise UserError(
                f"{where}: {shown} is stored as {type_name(tensor.dtype)}, where floating point "
                f"belongs; give {wanted}"
            )
        if not is_finite(tensor):
            raise UserError(f"{where}: {shown} holds NaN or infinity; give {wanted}")
    return state


def is_legal(want: torch.dtype, found: torch.dtype) -> bool:
    """Whether a value stored as `found` may be computed with as `want`.

    That is the same type, or a floating-point type that becomes wider.
    """
    if want in FLOATS and found in FLOATS:
        return found == want or FLOATS[found] < FLOATS[want]
    return found == want


def check_type(name: str, want: torch.Tensor, found: torch.Tensor, where: str, remedy: str) -> None:
    """Raise UserError unless `found` has a legal type for `want` and finite values."""
    if not is_legal(want.dtype, found.dtype):
        legal = type_name(want.dtype) + " belongs"
        if want.dtype in FLOATS:
            legal += " or a narrower floating-point type"
        raise UserError(
            f"{where}: {name} is stored as {type_name(found.dtype)}, where {legal}; {remedy}"
        )
    if not is_finite(found):
        raise UserError(f"{where}: {name} holds NaN or infinity; {remedy}")


def check_fit(expected: State, found: State, where: str, wanted: str) -> None:
    """Check that tensors of a file are those of a model.

    Foreign checkpoints may also be wider than they are computed in.

    Args:
        expected: The model's.
        found: The file's.
        where: What begins the sentence of an error.
        wanted: Whose tensors are expected.

    Raises:
        UserError: Names or shapes differ, a type is none for its tensor, or a value is not finite.
    """
    wrong = {
        "missing": list(expected.keys() - found.keys()),
        "unexpected": list(found.keys() - expected.keys()),
        "of another shape": _other_shapes(expected, found),
    }
    parts = [f"{len(names)} {kind}: {few(names)}" for kind, names in wrong.items() if names]
    if parts:
        report = "; ".join(parts)
        raise UserError(f"{where}: another architecture than {wanted} ({report}); give {wanted}")
    for name in sorted(expected):
        want = expected[name]
        if want.is_floating_point() and found[name].is_floating_point():
            want = found[name]
        check_type(name, want, found[name], where, f"give {wanted}")


def _other_shapes(expected: State, found: State) -> list[str]:
    """Name and both shapes of every tensor that has another shape than expected."""
    lines = []
    for name in expected.keys() & found.keys():
        if expected[name].shape != found[name].shape:
            shapes = f"{tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
            lines.append(f"{name} {shapes}")
    return lines


def check_values(model: nn.Module, where: str) -> None:
    """Check every scale, zero point and code of the quantised layers.

    A module with such tensors says what is wrong by `value_problem()`: a tensor's name and a
    reason, or None.

    Raises:
        UserError: For the first that cannot be one.
    """
    for name, module in model.named_modules():
        value_problem = getattr(module, "value_problem", None)
        problem = None if value_problem is None else value_problem()
        if problem is not None:
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
    """Assign the tensors of a safetensors file to a model.

    Weights may be stored narrower than they are computed in.

    Raises:
        UserError: The file cannot be read or does not fit; what of it is told.
    """
    state: State = {}
    remedy = "fetch or write the file again"
    expected = model.state_dict()
    try:
        with safe_open(file, framework="pt") as reader:
            names = list(reader.keys())
            shapes = {name: _shape_of(reader.get_slice(name).get_shape()) for name in names}
            wanted = {name: _shape_of(value.shape) for name, value in expected.items()}
            check_fit(wanted, shapes, str(file), "weights of this model")
            for name in names:
                tensor = reader.get_tensor(name)
                check_type(name, expected[name], tensor, str(file), remedy)
                state[name] = tensor.to(expected[name].dtype)
    except (SafetensorError, OSError) as error:
        reason = first_line(error)
        raise UserError(f"{file}: not a readable safetensors file ({reason}); {remedy}") from None
    model.load_state_dict(state, strict=True, assign=True)
    check_values(model, str(file))


def stored_shape(file: Path, name: str) -> tuple[int, ...] | None:
    """The shape of a tensor in a safetensors file; None where the file has none of that name."""
    try:
        with safe_open(file, framework="pt") as reader:
            names = list(reader.keys())
            return tuple(reader.get_slice(name).get_shape()) if name in names else None
    except (SafetensorError, OSError):
        return None  # what cannot be read is told by who reads it


def _shape_of(shape: Sequence[int]) -> torch.Tensor:
    """A float32 tensor of that shape without values."""
    return torch.empty(tuple(shape), dtype=torch.float32, device="meta")


def read_pickle(path: str, key: str, wanted: str) -> Any:
    """What `torch.save` wrote to a file, on the CPU; no code of the file runs.

    Foreign objects, which training checkpoints hold beside their tensors, come as `Inert`.

    Args:
        path: The file.
        key: The recipe's key that names it.
        wanted: The file to give instead.

    Raises:
        UserError: The file is absent or no checkpoint.
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
            f"{key}: {path} cannot be read as tensors, names and numbers alone "
            f"({type(error).__name__}); give {wanted}, or its tensors saved by themselves"
        ) from None
