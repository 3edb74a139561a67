"""What runs in full precision beside a binary product.

These are a sparse and a low-rank branch, and the curve behind the product.
"""

import torch
import torch.nn.functional as F
from torch import nn

from compress.binary.packed import expand
from compress.core.tensors import svd_factors


class RPReLU(nn.Module):
    """A leaky ReLU with learned slope and shifts (ReActNet, arXiv 2003.03488).

    [B, C, h, w] -> the same.

    Args:
        channels: C.
        slope: Of negative values, at first.
    """

    def __init__(self, channels: int, slope: float):
        super().__init__()
        self.shift_in = nn.Parameter(torch.zeros(channels))
        self.prelu = nn.PReLU(channels, slope)
        self.shift_out = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shift, bend and shift again, channel by channel."""
        return self.prelu(x + self.shift_in[:, None, None]) + self.shift_out[:, None, None]


class LowRank(nn.Module):
    """L = B A of a layer [C_out, C_in].

    Args:
        in_channels: C_in.
        out_channels: C_out.
        rank: At most what the layer has.
        stride: Of a convolution, which sees two 1x1 ones on every `stride`-th pixel. None for a
            linear layer.
    """

    down: nn.Linear | nn.Conv2d
    up: nn.Linear | nn.Conv2d

    def __init__(
        self, in_channels: int, out_channels: int, rank: int, stride: tuple[int, int] | None
    ):
        super().__init__()
        rank = min(rank, in_channels, out_channels)
        if stride is None:
            self.down = nn.Linear(in_channels, rank, bias=False)
            self.up = nn.Linear(rank, out_channels, bias=False)
        else:
            self.down = nn.Conv2d(in_channels, rank, 1, stride, bias=False)
            self.up = nn.Conv2d(rank, out_channels, 1, bias=False)

    def dense(self) -> torch.Tensor:
        """L, [C_out, C_in]."""
        return self.up.weight.flatten(1) @ self.down.weight.flatten(1)

    def fit(self, matrix: torch.Tensor) -> None:
        """Take the best approximation of `matrix` [C_out, C_in]."""
        up, down = svd_factors(matrix.float(), self.up.weight.shape[1])
        self.up.weight.copy_(up.view_as(self.up.weight))
        self.down.weight.copy_(down.view_as(self.down.weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """L x."""
        return self.up(self.down(x))


class Sparse(nn.Module):
    """S of a layer [C_out, C_in]: `entries` at the frozen, ascending flat positions `index`.

    It runs, and is counted by `compress.cost.count`, as a dense product: no runtime at hand has a
    sparse one.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        nonzeros: Entries in multiples of max(C_in, C_out).
        stride: As of `LowRank`.
    """

    NARROW = ("entries",)  # may be float16

    index: torch.Tensor

    def __init__(
        self, in_channels: int, out_channels: int, nonzeros: int, stride: tuple[int, int] | None
    ):
        super().__init__()
        self.shape = (out_channels, in_channels)
        self.stride = stride
        count = min(nonzeros * max(self.shape), in_channels * out_channels)
        self.entries = nn.Parameter(torch.zeros(count))
        self.register_buffer("index", torch.arange(count, dtype=torch.int32))

    def value_problem(self) -> tuple[str, str] | None:
        """A tensor's name and what is wrong with its value, of a model read from a file."""
        count = self.shape[0] * self.shape[1]
        if self.index.numel() and (self.index.min() < 0 or self.index.max() >= count):
            return "index", f"points out of the matrix, which has {count} entries"
        return None

    @property
    def density(self) -> float:
        """The share of the dense product's multiply-accumulates that a sparse kernel would do."""
        return self.entries.numel() / (self.shape[0] * self.shape[1])

    def dense(self) -> torch.Tensor:
        """S, [C_out, C_in]."""
        if not self.entries.requires_grad:
            return expand(self.entries, self.index, list(self.shape))
        zeros = self.entries.new_zeros(self.shape[0] * self.shape[1])
        return zeros.scatter(0, self.index.long(), self.entries).view(self.shape)

    def fit(self, matrix: torch.Tensor) -> None:
        """Keep the entries of `matrix` [C_out, C_in] with the largest magnitude."""
        flat = matrix.flatten()
        index = flat.abs().topk(self.entries.numel()).indices.sort().values
        self.index.copy_(index)
        self.entries.copy_(flat[index])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """S x."""
        if self.stride is None:
            return F.linear(x, self.dense())
        return F.conv2d(x, self.dense()[..., None, None], stride=self.stride)
