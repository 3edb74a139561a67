"""Whether onnxruntime computes what a network computes, by the package's way to ONNX."""

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from export.graphs.export_onnx import OPSET, quiet
from export.graphs.graph import tidy
from export.graphs.quick_export import quick_export
from export.graphs.translate import TABLE, drop_unit_factors
from export.parity.session import session


def check_onnx(network: nn.Module, *inputs: torch.Tensor, limit: float = 1e-4) -> None:
    """Assert that a network of static sizes is exported and computes the same.

    Args:
        network: In evaluation mode.
        inputs: What it is called with.
        limit: Largest difference, relative to the largest value of an output.
    """
    with torch.no_grad():
        expected = network(*inputs)
    with quiet(), quick_export():
        program = torch.onnx.export(
            network,
            inputs,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            custom_translation_table=TABLE,
        )
    assert program is not None
    drop_unit_factors(program.model)
    tidy(program.model)
    running = session(ir.to_proto(program.model).SerializeToString(), 1)
    names = [given.name for given in running.get_inputs()]
    found = running.run(None, dict(zip(names, [x.numpy() for x in inputs], strict=True)))
    outputs = (expected,) if isinstance(expected, torch.Tensor) else tuple(expected)
    assert len(found) == len(outputs)
    for one, other in zip(found, outputs, strict=True):
        assert np.abs(one - other.numpy()).max() <= limit * other.abs().max().item()
