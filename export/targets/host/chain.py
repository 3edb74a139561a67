"""One tile through the graphs, with the process between them.

manifest.json says what is needed: every graph names its inputs and outputs, and `host` has the
factors of the process. A process of one step is one sum, `clean_latent`. One of several has
`start`, the factors of the first state, and `steps`: what the graphs of `each_step` are told, and
the factors of the next state. Those may name `state_0`, `prediction_0` and so on, of earlier steps.
A step with `instead` gives these graphs other values in the place of some. So guidance is two steps
on two texts: the first leaves the state, and the factors of the second combine both predictions.
Behind each step but the last the graphs of `between` run, on `clean`, which is the sum in the
step's own `clean`: `instead` says what they read, and `makes` what a step's `instead` calls their
outputs. The last state is the clean latent. With `adaptive` each tile takes its own of many steps
(walking.py).
"""

from collections.abc import Callable, Iterable

import numpy as np

from .runtimes import Graph
from .walking import CLEAN, Tile

WHOLE = "model"  # the name of the graph of all
CLEAN_LATENT, IMAGE, LR = "clean_latent", "image", "lr"
PREDICTION, STATE, TIMESTEP = "prediction", "state", "timestep"
Values = dict[str, np.ndarray]
# Runs a graph, by its name, on the inputs of several tiles: one tuple each, and so are the outputs.
Run = Callable[[str, list[tuple[np.ndarray, ...]]], list[tuple[np.ndarray, ...]]]


def weighted_sum(factors: dict[str, float], values: Values) -> np.ndarray:
    """The sum of factor * value, float32.

    Args:
        factors: By the names of values. What has the factor 0 is left out.
        values: Arrays of one shape.
    """
    # The prediction first: floats do not add up in every order alike.
    names = sorted(factors, key=lambda name: name != PREDICTION)
    terms = [factors[name] * values[name] for name in names if factors[name]]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total.astype(np.float32)


def input_names(manifest: dict, name: str) -> list[str]:
    """Names of a graph's inputs, in their order."""
    return [entry["name"] for entry in manifest["graphs"][name]["inputs"]]


def output_names(manifest: dict, name: str) -> list[str]:
    """Names of a graph's outputs, in their order."""
    return [entry["name"] for entry in manifest["graphs"][name]["outputs"]]


def further_images(manifest: dict) -> dict[str, list[int]]:
    """The images that are needed beside the low-resolution one: name -> height and width."""
    return manifest["host"].get("images", {})


def kept_shapes(manifest: dict) -> dict[str, list[int]]:
    """What is kept of references: name of a value -> its shape."""
    return manifest["host"].get("references", {}).get("kept", {})


def no_references(manifest: dict) -> Values:
    """What a model that takes references is given without any: zeros."""
    return {name: np.zeros(shape, np.float32) for name, shape in kept_shapes(manifest).items()}


def _ready(manifest: dict, names: Iterable[str], known: set[str]) -> list[str]:
    """Those of the graphs that can run one after the other; `known` gets what they put out."""
    order: list[str] = []
    waiting = list(names)
    while True:
        runs = [name for name in waiting if known.issuperset(input_names(manifest, name))]
        if not runs:
            return order
        order.append(runs[0])
        waiting.remove(runs[0])
        known.update(output_names(manifest, runs[0]))


def stages(manifest: dict) -> tuple[list[str], list[str], list[str]] | None:
    """The graphs of the components: before the process, at each step, and after it.

    With one step those of the step are among the first. None where they are no whole model.
    """
    host = manifest["host"]
    graphs = [name for name in manifest["graphs"] if name != WHOLE]
    each = list(host.get("each_step", []))
    if not set(each) <= set(graphs):
        return None
    known = {LR, *further_images(manifest), *kept_shapes(manifest)}
    before = _ready(manifest, [name for name in graphs if name not in each], known)
    if each:
        at_step = known | {STATE, TIMESTEP}
        if _ready(manifest, each, at_step) != each or PREDICTION not in at_step:
            return None
    elif not known.issuperset(name for name, factor in host[CLEAN_LATENT].items() if factor):
        return None
    known.add(CLEAN_LATENT)
    between = [call["graph"] for call in host.get("between", [])]
    if "adaptive" in host:
        between = [host["adaptive"]["regressor"]]
    rest = [name for name in graphs if name not in {*each, *before}]
    after = _ready(manifest, rest, known)
    between = [name for name in dict.fromkeys(between) if name not in {*before, *after}]
    if IMAGE not in known or not set(between) <= set(graphs):
        return None
    return before, [*each, *between], after


def parts(manifest: dict) -> list[str]:
    """The graphs of the components in running order; none where they are no whole model."""
    found = stages(manifest)
    if found is None:
        return []
    return [name for stage in found for name in stage]


def _run_graph(
    manifest: dict,
    run: Run,
    name: str,
    batch: list[Values],
    instead: dict[str, str] | None = None,
    makes: dict[str, str] | None = None,
) -> None:
    """Run a graph on every tile, and add what it puts out to the values of each.

    Args:
        manifest: As `folder.read` gives it.
        run: Runs a graph.
        name: The graph.
        batch: The values of each tile.
        instead: Name of an input -> the value that it reads; it reads that of its own name where it
            is not listed.
        makes: Name of an output -> the value that it is; likewise.
    """
    outputs = [(makes or {}).get(key, key) for key in output_names(manifest, name)]
    if all(output in values for values in batch for output in outputs):
        return
    inputs = [(instead or {}).get(key, key) for key in input_names(manifest, name)]
    given = [tuple(values[key] for key in inputs) for values in batch]
    for values, results in zip(batch, run(name, given), strict=True):
        values.update(zip(outputs, results, strict=True))


def run_process(manifest: dict, run: Run, batch: list[Values]) -> None:
    """Add the clean latent to the values of every tile.

    Args:
        manifest: As `folder.read` gives it.
        run: Runs a graph.
        batch: The values of each tile.
    """
    host = manifest["host"]
    if "adaptive" in host:
        for values in batch:
            _walk(manifest, run, values)
        return
    each = host.get("each_step")
    if not each:
        for values in batch:
            values[CLEAN_LATENT] = weighted_sum(host[CLEAN_LATENT], values)
        return
    states = [weighted_sum(host["start"], values) for values in batch]
    remembered = {name for step in host["steps"] for name in step["factors"]}
    earlier: list[Values] = [{} for _ in batch]
    for number, step in enumerate(host["steps"]):
        timestep = np.array([step["timestep"]], np.int64)
        at_step = [
            {**values, **before, STATE: state, TIMESTEP: timestep}
            for values, before, state in zip(batch, earlier, states, strict=True)
        ]
        for name in each:
            _run_graph(manifest, run, name, at_step, step.get("instead"))
        states = [weighted_sum(step["factors"], values) for values in at_step]
        for values, before in zip(at_step, earlier, strict=True):
            own = {f"{name}_{number}": values[name] for name in (STATE, PREDICTION)}
            before.update((name, own[name]) for name in remembered.intersection(own))
        if number + 1 < len(host["steps"]):
            made = _look_again(manifest, run, step, at_step)
            for before, new in zip(earlier, made, strict=True):
                before.update(new)
    for values, state in zip(batch, states, strict=True):
        values[CLEAN_LATENT] = state


def _look_again(manifest: dict, run: Run, step: dict, at_step: list[Values]) -> list[Values]:
    """What the graphs between two steps make of each tile.

    Args:
        manifest: As `folder.read` gives it.
        run: Runs a graph.
        step: The step before.
        at_step: What there is of each tile once its graphs have run.
    """
    calls = manifest["host"].get("between", [])
    if not calls:
        return [{} for _ in at_step]
    new = {name for call in calls for name in _made(manifest, call)}
    batch = [{name: x for name, x in values.items() if name not in new} for values in at_step]
    for values in batch:
        values[CLEAN] = weighted_sum(step["clean"], values)
    for call in calls:
        _run_graph(manifest, run, call["graph"], batch, call["instead"], call["makes"])
    return [{name: values[name] for name in new} for values in batch]


def _made(manifest: dict, call: dict) -> list[str]:
    """The values that a call between two steps makes."""
    return [call["makes"].get(name, name) for name in output_names(manifest, call["graph"])]


def _walk(manifest: dict, run: Run, values: Values) -> None:
    """Add the clean latent of a tile that takes its own steps."""

    def run_one(name: str, local: Values) -> None:
        _run_graph(manifest, run, name, [local])

    values[CLEAN_LATENT] = Tile(manifest["host"], values, run_one, weighted_sum).walk()


def run_parts(manifest: dict, run: Run, batch: list[Values]) -> list[np.ndarray]:
    """Tiles through the graphs of all components.

    Args:
        manifest: As `folder.read` gives it; it holds a whole model.
        run: Runs a graph.
        batch: Of each tile `lr`, float32 [1, 3, h, w] in [0, 1], and the further images. What a
            graph would put out may be there already. It gets all other values.

    Returns:
        float32 [1, 3, scale * h, scale * w] each.

    Raises:
        ValueError: It holds none.
    """
    found = stages(manifest)
    if found is None:
        raise ValueError("the graphs of this folder are no whole model")
    before, _, after = found
    for name in before:
        _run_graph(manifest, run, name, batch)
    run_process(manifest, run, batch)
    for name in after:
        _run_graph(manifest, run, name, batch)
    return [values[IMAGE] for values in batch]


def runner(graphs: dict[str, Graph]) -> Run:
    """Runs loaded graphs, one tile after the other."""

    def run(name: str, given: list[tuple[np.ndarray, ...]]) -> list[tuple[np.ndarray, ...]]:
        results = []
        for arrays in given:
            result = graphs[name](*arrays)
            results.append(result if isinstance(result, tuple) else (result,))
        return results

    return run


def chain(
    manifest: dict, graphs: dict[str, Graph], lr: np.ndarray, others: Values | None = None
) -> np.ndarray:
    """One tile through all in one graph, or through the graphs of the components.

    Args:
        manifest: As `folder.read` gives it.
        graphs: `model`, or those of the components.
        lr: float32 [1, 3, h, w] in [0, 1].
        others: The further images, what `without_tiles` made of them, and what was kept of
            references.

    Returns:
        float32 [1, 3, scale * h, scale * w].
    """
    values = {LR: lr, **no_references(manifest), **(others or {})}
    if WHOLE in graphs:
        (result,) = runner(graphs)(WHOLE, [tuple(values[n] for n in input_names(manifest, WHOLE))])
        return result[0]
    return run_parts(manifest, runner(graphs), [values])[0]


def without_tiles(manifest: dict, graphs: dict[str, Graph], images: Values) -> Values:
    """The further images, and all that the graphs make of them alone: it is the same in all tiles.

    Args:
        manifest: As `folder.read` gives it.
        graphs: `model`, or those of the components.
        images: float32 [1, 3, height, width] in [0, 1] by their names.
    """
    values = dict(images)
    if WHOLE not in graphs and images:
        for name in _ready(manifest, graphs, set(values)):
            _run_graph(manifest, runner(graphs), name, [values])
    return values
