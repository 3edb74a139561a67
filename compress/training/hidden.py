"""A module that another module uses without owning it."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Hidden(Generic[M]):
    """Holds a module where `nn.Module` does not look.

    A module that is set as an attribute of another becomes a part of it. Its parameters are then
    trained, broadcast between processes and written into checkpoints. A teacher or a metric must
    be none of these. So a training stage keeps `self.teacher = Hidden(teacher)` and calls
    `self.teacher.module`.

    Attributes:
        module: The module that is held.
    """

    module: M
