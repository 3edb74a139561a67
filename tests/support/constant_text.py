"""A text encoder that puts out given contexts."""

import torch
from torch import nn


class ConstantText(nn.Module):
    """One context as a tensor, several as a tuple; each is [1, tokens, dim]."""

    def __init__(self, *contexts: torch.Tensor):
        super().__init__()
        self.contexts = nn.ParameterList(contexts).requires_grad_(False)

    def forward(self) -> torch.Tensor | tuple[torch.Tensor, ...]:
        found = tuple(self.contexts)
        return found[0] if len(found) == 1 else found
