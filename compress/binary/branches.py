"""What runs in full precision beside a binary product: a sparse and a low-rank branch, and the curve behind it."""

import torch
import torch.nn.functional as F
from torch import nn

from compress.binary.packed import expand


class RPReLU(nn.Module):
    """A leaky ReLU with learned slope and shifts for every channel (ReActNet): [B, C, h, w] -> the same."""

    def __init__(self, channels: int, slope: float):
        super().__init__()
        self.shift_in = nn.Parameter(torch.zeros(channels))
        self.prelu = nn.PReLU(channels, slope)
        self.shift_out = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.prelu(x + self.shift_in[:, None, None]) + self.shift_out[:, None, None]


class LowRank(nn.Module):
    """L = B A of a layer [C_out, C_in]; convolutions see it as two 1x1 ones on every `stride`-th pixel."""

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
        """[C_out, C_in]."""
        return self.up.weight.flatten(1) @ self.down.weight.flatten(1)

    def fit(self, matrix: torch.Tensor) -> None:
        """The best approximation of [C_out, C_in], singular values split evenly between the factors."""
        u, s, v = torch.linalg.svd(matrix.float(), full_matrices=False)
        rank = self.up.weight.shape[1]
        root = s[:rank].sqrt()
        self.up.weight.copy_((u[:, :rank] * root).view_as(self.up.weight))
        self.down.weight.copy_((root[:, None] * v[:rank]).view_as(self.down.weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.down(x))


class Sparse(nn.Module):
    """S of a layer [C_out, C_in]: `entries` at the frozen, ascending flat positions `index`.

    It runs, and is counted by `compress.cost.count`, as a dense product: no runtime at hand has a sparse one.
    """

    NARROW = ("entries",)  # may be float16

    def __init__(
        self, in_channels: int, out_channels: int, nonzeros: int, stride: tuple[int, int] | None
    ):
        super().__init__()
        self.shape, self.stride = (out_channels, in_channels), stride
        count = min(nonzeros * max(self.shape), in_channels * out_channels)
        self.entries = nn.Parameter(torch.zeros(count))
        self.register_buffer("index", torch.arange(count, dtype=torch.int32))

    def value_problem(self) -> tuple[str, str] | None:
        """A tensor's name and what is wrong with its value, of a model that was read from a file."""
        count = self.shape[0] * self.shape[1]
        if self.index.numel() and (self.index.min() < 0 or self.index.max() >= count):
            return "index", f"points out of the matrix, which has {count} entries"
        return None

    @property
    def density(self) -> float:
        """The share of the dense product's multiply-accumulates that a sparse kernel would do."""
        return self.entries.numel() / (self.shape[0] * self.shape[1])

    def dense(self) -> torch.Tensor:
        """[C_out, C_in]."""
        if not self.entries.requires_grad:
            return expand(self.entries, self.index, list(self.shape))
        zeros = self.entries.new_zeros(self.shape[0] * self.shape[1])
        return zeros.scatter(0, self.index.long(), self.entries).view(self.shape)

    def fit(self, matrix: torch.Tensor) -> None:
        """Keep the entries of [C_out, C_in] with the largest magnitude."""
        flat = matrix.flatten()
        index = flat.abs().topk(self.entries.numel()).indices.sort().values
        self.index.copy_(index)
        self.entries.copy_(flat[index])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.stride is None:
            return F.linear(x, self.dense())
        return F.conv2d(x, self.dense()[..., None, None], stride=self.stride)
