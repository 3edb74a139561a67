"""A quantised torch module as an ONNX file."""

import onnx_ir as ir
import torch
from torch import nn

from export.baselines.methods import Job
from export.graphs.export_onnx import quiet
from export.graphs.graph import tidy
from export.graphs.quick_export import quick_export
from export.graphs.translate import TABLE


def export_module(module: nn.Module, job: Job, opset: int) -> ir.Model:
    """`module` as a graph with the names of its component.

    Args:
        module: What a library made of the component.
        job: Gives the names and an input to trace with.
        opset: Of the graph.
    """
    source, result = job.names
    with quiet(), quick_export():
        program = torch.onnx.export(
            module,
            (torch.from_numpy(job.arrays[0]),),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=[source],
            output_names=[result],
            custom_translation_table=TABLE,
        )
    if program is None:
        raise RuntimeError(f"{job.stem}: torch exported nothing")
    tidy(program.model)
    return program.model
