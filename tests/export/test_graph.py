"""What becomes of an exported graph before it is written."""

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from compress.quant.layers import TensorQuantiser
from export.graph import tidy, write
from export.translate import TABLE


class Readers(nn.Module):
    """Three 6-bit quantisers of one tensor: their clamps are fused under one name."""

    def __init__(self):
        super().__init__()
        self.grids = nn.ModuleList(TensorQuantiser(6) for _ in range(3))
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        for i, grid in enumerate(self.grids):
            grid.set(torch.tensor(0.02 * (i + 1)), torch.tensor(20 + i))

    def forward(self, x):
        x = x.transpose(1, 2)
        return torch.cat([layer(grid(x)) for grid, layer in zip(self.grids, self.layers)], dim=-1)


def test_limits_of_clamps_on_one_tensor_are_all_there(tmp_path):
    torch.manual_seed(0)
    net, x = Readers().eval(), torch.randn(1, 8, 16)
    with torch.no_grad():
        program = torch.onnx.export(net, (x,), dynamo=True, opset_version=20, input_names=["x"], verbose=False,
                                    custom_translation_table=TABLE)
        expected = net(x).numpy()
    tidy(program.model)
    file, = write(program.model, tmp_path / "net.onnx", {})
    found = ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})[0]
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
