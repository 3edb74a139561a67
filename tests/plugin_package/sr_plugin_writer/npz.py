"""A target that writes the first component's weights, and runs them by torch."""

from pathlib import Path

import numpy as np
import torch

from export.targets.contract import Exported, Inputs, Parts


def write(parts: Parts, folder: Path) -> Exported:
    graphs = {}
    modules = {stem: parts.module(stem) for stem in parts.stems}
    for stem, module in modules.items():
        np.savez(folder / f"{stem}.npz", **{k: v.numpy() for k, v in module.state_dict().items()})
        graphs[stem] = {"file": f"{stem}.npz", "format": "npz"}

    @torch.no_grad()
    def run(stem: str, arrays: dict[str, Inputs]) -> dict[str, Inputs]:
        values = np.load(folder / f"{stem}.npz")
        modules[stem].load_state_dict({k: torch.from_numpy(values[k]) for k in values.files})
        found = {}
        for label, inputs in arrays.items():
            output = modules[stem](*map(torch.from_numpy, inputs))
            found[label] = tuple(
                o.numpy() for o in (output if isinstance(output, tuple) else (output,))
            )
        return found

    return Exported(graphs, ("torch",), {}, runner=run)
