"""A quantised weight that is used again until something that it was made of changes."""

from collections.abc import Sequence

import torch


class KeptWeight:
    """A quantised weight, for all images that are computed before the next step of learning.

    Args:
        weight: [out, in, ...], or None.
        made_from: The tensors that it was computed from and that learning may change.
    """

    def __init__(
        self,
        weight: torch.Tensor | None = None,
        made_from: Sequence[torch.Tensor | None] = (),
    ):
        self.weight = weight
        self.made_from = list(made_from)
        self.versions = _versions(made_from)

    def get(self, made_from: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        """The weight, or None where one of the tensors is another or has changed."""
        same = len(made_from) == len(self.made_from) and all(
            a is b for a, b in zip(made_from, self.made_from, strict=True)
        )
        return self.weight if same and _versions(made_from) == self.versions else None


def _versions(tensors: Sequence[torch.Tensor | None]) -> list[int]:
    """How often each was written to, as autograd counts."""
    return [-1 if tensor is None else tensor._version for tensor in tensors]
