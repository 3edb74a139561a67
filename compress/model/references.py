"""Photographs that a model refers to: what is kept of each, and of several in their places.

What is kept depends on the photograph alone. It is made once, may be stored, and is what a model is
given beside the image, in place of the photographs.
"""

import hashlib
from collections.abc import Sequence

import torch

from compress.core.errors import UserError
from compress.model.calls import References, Values, run_calls
from compress.model.components import Components

PHOTOGRAPH = "reference"  # the value that the call which is `aside` reads


def references_of(model: Components, who: str) -> References:
    """What a model says of its references.

    Args:
        model: Any model.
        who: What needs them, for the sentence of the error.

    Raises:
        UserError: It takes none.
    """
    references = model.wiring.references
    if references is None:
        raise UserError(
            f"{who}: this model takes no references; add the pass reference_adapter to its recipe"
        )
    return references


def keep(model: Components, photographs: torch.Tensor) -> Values:
    """What is kept of photographs, each by itself.

    Args:
        model: Takes references.
        photographs: Float [n, 3, height, width] in [0, 1], of the size that the model takes.

    Returns:
        Name -> [n, *shape].

    Raises:
        UserError: The model takes no references, or of another size.
    """
    references = references_of(model, "references")
    height, width = references.size
    if tuple(photographs.shape[-2:]) != (height, width):
        raise UserError(
            f"a reference has {photographs.shape[-1]}x{photographs.shape[-2]} pixels and this "
            f"model takes {width}x{height}; cut it"
        )
    call = model.wiring.call(references.component)
    values = {PHOTOGRAPH: photographs, **model.constants()}
    run_calls(model, [call], values)
    return {name: values[name] for name in references.kept}


def gather(references: References, kept: Values) -> Values:
    """What was kept of n photographs in the places that a model has for them.

    Places that are left hold zeros: they add nothing.

    Args:
        references: Of the model.
        kept: Name -> [n, *shape], with n from 0 to the number of places.

    Returns:
        Name -> [1, places, *shape].

    Raises:
        UserError: There are more photographs than places.
    """
    gathered: Values = {}
    for name, values in kept.items():
        count = len(values)
        if count > references.count:
            raise UserError(
                f"{count} references are given and this model has places for {references.count}; "
                "give fewer"
            )
        placed = values.new_zeros((1, references.count, *values.shape[1:]))
        placed[0, :count] = values / max(count, 1) if name in references.shared else values
        gathered[name] = placed
    return gathered


def remember(model: Components, photographs: Sequence[torch.Tensor]) -> Values:
    """What a model is given of photographs, [1, 3, height, width] each; of none, zeros."""
    references = references_of(model, "references")
    if not photographs:
        return references.none(next(model.parameters()))
    return gather(references, keep(model, torch.cat(list(photographs))))


@torch.no_grad()
def fingerprint(model: Components) -> str:
    """Identity of what makes what is kept, 16 hex digits: a file of another is none for this model.

    Passes that leave it alone, such as those on the decoder, leave the identity as it is.
    """
    references = references_of(model, "references")
    found = hashlib.sha256(repr((references.size, references.shapes)).encode())
    state = model.get_submodule(references.component).state_dict()
    for name, value in sorted(state.items()):
        found.update(name.encode())
        found.update(value.cpu().contiguous().numpy().tobytes())
    for name, value in sorted(model.constants().items()):
        if value is not None and name in model.wiring.call(references.component).inputs:
            found.update(value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
