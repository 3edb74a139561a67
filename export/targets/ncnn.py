"""ncnn: <stem>.ncnn.param and .bin by pnnx, with float32 or float16 weights."""

import shutil
from pathlib import Path

import torch

from compress.errors import UserError
from export.targets.hush import hushed
from export.targets.parts import Exported, Options, Parts, example, float_model


def convert(module: torch.nn.Module, x: torch.Tensor, scratch: Path, stem: str, dtype: str) -> None:
    """Run pnnx in `scratch`. Raises UserError where it does not write the two files that ncnn loads, or
    writes operators that ncnn has not."""
    import pnnx

    with hushed() as report:
        pnnx.export(module, str(scratch / f"{stem}.pt"), (x,), fp16=dtype == "fp16")
        report.seek(0)
        said = report.read().decode(errors="replace").strip().splitlines()
    for name in (f"{stem}.ncnn.param", f"{stem}.ncnn.bin"):
        if not (scratch / name).is_file():
            raise UserError(f"{stem}: pnnx wrote no {name} and said: {said[-1] if said else 'nothing'}; choose another "
                            "target, or export other components")
    left = unknown(scratch / f"{stem}.ncnn.param")
    if left:
        raise UserError(f"{stem}: ncnn has no layer for {', '.join(left)}; choose another target")


def unknown(param: Path) -> list[str]:
    """The operators that pnnx left under torch's names, such as torch.argmin, because ncnn has none for them."""
    kinds = [line.split()[0] for line in param.read_text().splitlines()[2:] if line.strip()]
    return sorted({kind for kind in kinds if "." in kind})


@torch.no_grad()
def write(parts: Parts, folder: Path, options: Options) -> Exported:
    float_model(parts)
    if options.rewrite:
        raise UserError("rewrites work on ONNX graphs, and ncnn is made from torch; leave out --rewrite")
    graphs = {}
    for stem in parts.stems:
        scratch = folder / f"{stem}_pnnx"
        scratch.mkdir()
        convert(parts.module(stem), example(parts, stem), scratch, stem, parts.dtype)
        # pnnx writes a dozen files beside the two that ncnn loads.
        names = [f"{stem}.ncnn.param", f"{stem}.ncnn.bin"]
        for name in names:
            (scratch / name).replace(folder / name)
        shutil.rmtree(scratch)
        graphs[stem] = {"file": names[0], "weights": names[1], "format": "ncnn",
                        # pnnx names a graph's ends itself
                        "inputs": [{"name": "in0"}], "outputs": [{"name": "out0"}]}
    return Exported(graphs, ("ncnn", "pnnx"), {})
