"""Reading saved tensors, with errors that say what does not fit."""

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from compress.errors import UserError

State = dict[str, torch.Tensor]
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError)


class Inert:
    """Stands in for every foreign class of a pickled file: takes any arguments and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def few(names: Iterable[str], count: int = 3) -> str:
    """The first `count` in alphabetical order, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def check_fit(expected: State, found: State, where: str, wanted: str) -> None:
    """Raise UserError unless both have the same names and shapes; `wanted` says whose tensors are expected."""
    shapes = [f"{k} {tuple(found[k].shape)} instead of {tuple(expected[k].shape)}"
              for k in expected.keys() & found.keys() if expected[k].shape != found[k].shape]
    wrong = [(kind, names) for kind, names in (("missing", expected.keys() - found.keys()),
             ("unexpected", found.keys() - expected.keys()), ("of another shape", shapes)) if names]
    if wrong:
        report = "; ".join(f"{len(names)} {kind}: {few(names)}" for kind, names in wrong)
        raise UserError(f"{where}: another architecture than {wanted} ({report}); give {wanted}")


def read_tensors(model: nn.Module, file: Path) -> None:
    """Assign the tensors of the safetensors `file` to `model`. Raises UserError saying what does not fit."""
    state = {}
    expected = model.state_dict()
    try:
        with safe_open(file, framework="pt") as reader:
            for name in reader.keys():
                tensor = reader.get_tensor(name)
                want = expected.get(name)
                # Weights may be stored narrower than they are computed in.
                state[name] = tensor.to(want.dtype) if want is not None and want.is_floating_point() else tensor
    except SafetensorError as error:
        raise UserError(f"{file}: not a readable safetensors file ({error}); fetch or write it again") from None
    check_fit(expected, state, str(file), "weights of this model")
    model.load_state_dict(state, strict=True, assign=True)


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
        raise UserError(f"{key}: {path} cannot be read as tensors, names and numbers alone ({type(error).__name__}); "
                        f"give {wanted}, or its tensors saved by themselves") from None
