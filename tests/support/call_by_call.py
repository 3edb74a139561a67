"""A model call by call, to be compared with the authors' intermediate values."""

import torch
from support.golden import Golden

from compress.model.calls import Call, Values
from compress.model.sr_model import SRModel

Seen = dict[str, list[tuple[tuple, tuple]]]  # component -> (arguments, outputs) of each call


def run_before(model: SRModel, values: Values) -> Values:
    """The values that there are before the process."""
    known = dict(values)
    for call in model.wiring.before:
        network = getattr(model, call.component)
        if network is None:
            known |= dict.fromkeys(call.outputs)
            continue
        result = network(*(known[name] for name in call.inputs))
        made = result if isinstance(result, tuple) else (result,)
        known |= dict(zip(call.outputs, made, strict=True))
    return known


def watched(model: SRModel, values: Values) -> tuple[torch.Tensor, Seen]:
    """The clean latent, and what each component of a step read and made."""
    seen: Seen = {}

    def watch(call: Call, inputs: tuple, outputs: tuple) -> None:
        seen.setdefault(call.component, []).append((inputs, outputs))

    return model.restore(values, watch), seen


def check_states(golden: Golden, seen: Seen, case: str, name: str) -> None:
    """Assert that the states of all steps that the golden has are the authors'."""
    found = {}
    for step, (inputs, _) in enumerate(seen["denoiser"]):
        key = f"{case}.{name}.{step}"
        if f"outputs.{key}" in golden.tensors:
            found[key] = inputs[0]
    assert found, f"no state of {case} is in the golden"
    for key, state in found.items():
        golden.check(state, key)
