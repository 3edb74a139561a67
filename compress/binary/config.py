"""How a layer is made binary.

| method   | source                             | what it computes                                 |
|----------|------------------------------------|--------------------------------------------------|
| bimacosr | BiMaCoSR, arXiv 2502.00333         | RPReLU(conv(beta sign(x), alpha sign(R)) + bias) |
|          |                                    | + S x + L x, where W = R + S + L                 |
| xnor     | XNOR-Net, arXiv 1603.05279         | K conv(sign(x), alpha sign(W)) + bias            |
| react    | ReActNet, arXiv 2003.03488         | RPReLU(conv(sign(x - threshold), alpha sign(W))  |
|          |                                    | + bias)                                          |
| ternary  | BitNet b1.58, arXiv 2402.17764     | conv(Q8(x), alpha clamp(round(W / alpha), -1, 1))|
|          |                                    | + bias                                           |
| w1a8     | inputs of BitNet, one-bit weights  | conv(Q8(x), alpha sign(W)) + bias                |
| w1a4     | the same with Q4                   | conv(Q4(x), alpha sign(W)) + bias                |

alpha is the mean |W| of an output channel. beta is the mean |x| of a pixel or token over its
channels. K is the mean of beta under the kernel. Qb rounds to b bits; the largest |x| of a pixel or
token is the end of its grid. All of them are constants in the backward pass. Linear layers have no
RPReLU. Zero padding pads the binary map, so a padded position contributes nothing.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from compress.core.errors import UserError

Method = Literal["bimacosr", "xnor", "react", "ternary", "w1a8", "w1a4"]
METHODS = get_args(Method)
TERNARY_BITS = 2  # as stored; log2(3) = 1.58 is what a ternary digit is worth
ACT_BITS = {"ternary": 8, "w1a8": 8, "w1a4": 4}


@dataclass(frozen=True)
class BinaryConfig:
    """How a layer is made binary.

    Attributes:
        method: One of `METHODS`.
        binary: Whether there is the binary branch.
        low_rank: For `bimacosr` only: whether there is the low-rank branch, L = B A.
        sparse: For `bimacosr` only: whether there is the sparse branch, S.
        rank: Of L, above 0; at most what the layer has.
        nonzeros: Entries of S, above 0, in multiples of max(C_in, C_out).
        released: Whether to reproduce the code that BiMaCoSR's checkpoint was trained with.
            sign(0) is 0 there, and RPReLU starts as a leaky ReLU instead of the identity.
            Convolutions of stride 2 add 2x2 means of their input in the place of S x and L x,
            although S and L were taken out of their weight.

    Raises:
        UserError: The method is unknown, a size is not positive, or no branch is left.
    """

    method: Method = "bimacosr"
    binary: bool = True
    low_rank: bool = True
    sparse: bool = True
    rank: int = 8
    nonzeros: int = 2
    released: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(
                f"binary layer: method '{self.method}' is unknown; choose one of "
                f"{', '.join(METHODS)}"
            )
        if self.rank < 1 or self.nonzeros < 1:
            raise UserError(
                f"binary layer: rank ({self.rank}) and nonzeros ({self.nonzeros}) must be at least "
                "1; switch a branch off with low_rank or sparse"
            )
        has_branch = self.method == "bimacosr" and (self.low_rank or self.sparse)
        if not self.binary and not has_branch:
            raise UserError("binary layer: no branch is left; switch on binary, low_rank or sparse")

    @property
    def weight_bits(self) -> int | None:
        """Bits of a weight of the binary branch, None without one."""
        if not self.binary:
            return None
        return TERNARY_BITS if self.method == "ternary" else 1

    @property
    def act_bits(self) -> int | None:
        """Bits of an input of the binary branch, None without one."""
        if self.binary:
            return ACT_BITS.get(self.method, 1)
        return None


DEFAULT = BinaryConfig()
