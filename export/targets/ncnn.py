"""ncnn: <stem>.ncnn.param and .bin by pnnx, with float32 or float16 weights."""

import contextlib
import os
from pathlib import Path

import torch

from compress.errors import UserError
from export.targets.parts import Exported, Options, Parts, example, float_model


@torch.no_grad()
def write(parts: Parts, folder: Path, options: Options) -> Exported:
    import pnnx

    float_model(parts)
    if options.rewrite:
        raise UserError("rewrites work on ONNX graphs, and ncnn is made from torch; leave out --rewrite")
    graphs = {}
    for stem in parts.stems:
        scratch = folder / f"{stem}_pnnx"
        scratch.mkdir()
        # pnnx prints every pass to stdout and writes a dozen files beside the two that ncnn loads.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            pnnx.export(parts.module(stem), str(scratch / f"{stem}.pt"), (example(parts, stem),),
                        fp16=parts.dtype == "fp16")
        names = [f"{stem}.ncnn.param", f"{stem}.ncnn.bin"]
        for name in names:
            if not (scratch / name).is_file():
                raise UserError(f"{stem}: pnnx wrote no {name}; this network has an operator that ncnn lacks, choose another "
                                "target")
            (scratch / name).replace(folder / name)
        for rest in scratch.iterdir():
            rest.unlink()
        scratch.rmdir()
        graphs[stem] = {"file": names[0], "weights": names[1], "format": "ncnn",
                        # pnnx names a graph's ends itself
                        "inputs": [{"name": "in0"}], "outputs": [{"name": "out0"}]}
    return Exported(graphs, ("ncnn", "pnnx"), {})
