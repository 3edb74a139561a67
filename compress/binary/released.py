"""Values of BiMaCoSR's released checkpoint (arXiv 2502.00333) in our layers."""

import torch

from compress.binary.layers import BinaryLayer

# Our parameter of RPReLU -> theirs.
CURVE = {
    "shift_in": "pr_bias0.bias",
    "prelu.weight": "pr_prelu.weight",
    "shift_out": "pr_bias1.bias",
}


@torch.no_grad()
def load_released(layer: BinaryLayer, state: dict[str, torch.Tensor]) -> None:
    """Take the values of one layer of the checkpoint.

    Args:
        layer: Made with `released`, of the layer's shape.
        state: Its tensors by the checkpoint's names, without the layer's own.

    Raises:
        KeyError: A tensor is missing.
    """
    layer.latent_weight.copy_(state["weight"])
    if layer.bias is not None:
        layer.bias.copy_(state["bias"])
    if layer.rprelu is not None:
        for ours, theirs in CURVE.items():
            layer.rprelu.get_parameter(ours).copy_(state[f"relu.{theirs}"].flatten())
    if layer.sparse is not None:
        row, column = state["skip_connection.indices_float"].long()
        index, order = (row * layer.sparse.shape[1] + column).sort()
        layer.sparse.index.copy_(index)
        layer.sparse.entries.copy_(state["skip_connection.values"][order])
    if layer.low_rank is not None:
        # A comes first in their convolutions and B in their linear layers.
        is_conv = layer.CHANNELS == 1
        first, second = ("A", "B") if is_conv else ("B", "A")
        layer.low_rank.down.weight.copy_(state[f"lora.{first}.weight"])
        layer.low_rank.up.weight.copy_(state[f"lora.{second}.weight"])
