"""The knobs of realism that a model has of its own, between the graphs of its components."""

from collections.abc import Callable

import numpy as np

from .chain import WHOLE, output_names
from .folder import FolderError
from .knobs import NOISE, OUTPUTS, STEPS, shortened
from .runtimes import Graph

Graphs = dict[str, Graph]


def own_knobs(manifest: dict) -> list[str]:
    """What this folder has besides the blend of outputs."""
    host = manifest["host"]
    steps = host.get("steps", [])
    found = []
    made = {name for graph in manifest["graphs"] for name in output_names(manifest, graph)}
    if set(host.get("noise", [])) & made:
        found.append(NOISE)
    if len(steps) > 1 and all("clean" in step for step in steps):
        found.append(STEPS)
    return found


def check(manifest: dict, names: list[str], knob: str) -> None:
    """Refuse a knob that this folder, or the chosen graphs of it, cannot turn.

    Raises:
        FolderError: It cannot.
    """
    if knob == OUTPUTS:
        return
    own = own_knobs(manifest)
    if knob not in own:
        rest = f"it has {', '.join(own)} besides" if own else "it has the blend of outputs alone"
        raise FolderError(f"--knob {knob}: this exported folder has no such knob; {rest}")
    if names == [WHOLE]:
        raise FolderError(
            f"--knob {knob}: one graph for all has the blend of outputs alone; take --graphs parts"
        )


def turned(manifest: dict, graphs: Graphs, knob: str, strength: float) -> tuple[dict, Graphs]:
    """The manifest and the graphs at a strength of a knob that `check` let pass."""
    if knob == STEPS:
        host = manifest["host"]
        return {**manifest, "host": {**host, "steps": shortened(host["steps"], strength)}}, graphs
    if knob == NOISE:
        noise = set(manifest["host"]["noise"])
        return manifest, {
            name: _quieter(graph, [n in noise for n in output_names(manifest, name)], strength)
            for name, graph in graphs.items()
        }
    return manifest, graphs


def _quieter(graph: Graph, is_noise: list[bool], strength: float) -> Graph:
    """A graph whose outputs of noise are multiplied by the strength."""
    if not any(is_noise):
        return graph

    def run(*inputs: np.ndarray) -> np.ndarray | tuple[np.ndarray, ...]:
        result = graph(*inputs)
        if not isinstance(result, tuple):
            return result * result.dtype.type(strength)
        pairs = zip(result, is_noise, strict=True)
        return tuple(one * one.dtype.type(strength) if noise else one for one, noise in pairs)

    made: Callable = run
    return made
