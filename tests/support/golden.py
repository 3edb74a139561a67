"""Goldens: numbers of the authors' code, in ../shared beside the repository."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

Tensors = dict[str, torch.Tensor]


class Golden:
    """One golden: its facts and its tensors.

    Args:
        folder: The folder of goldens.
        name: Of the golden.
    """

    def __init__(self, folder: Path, name: str):
        self.facts: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
        self.tensors: Tensors = {}
        for file in self.facts["files"]:
            self.tensors |= load_file(folder / file)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def under(self, prefix: str) -> Tensors:
        """The tensors whose names begin with `prefix`, without it."""
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }

    def weights(self, prefix: str = "") -> Tensors:
        """The weights below a prefix in float32, which some goldens store in half precision."""
        found = self.under(f"weights.{prefix}")
        return {n: t.float() if t.is_floating_point() else t for n, t in found.items()}

    def check(self, found: torch.Tensor, name: str) -> None:
        """Assert that a tensor is the output of that name, within both tolerances stated."""
        expected = self.tensors[f"outputs.{name}"]
        assert found.shape == expected.shape, name
        difference = (found - expected).double()
        limits = self.facts["tolerance"]
        limits = limits.get(name, limits) if isinstance(limits.get(name, 0), dict) else limits
        assert difference.abs().max() <= limits["max_abs"], name
        assert difference.norm() / expected.double().norm() <= limits["rel_l2"], name


def manifest(shared: Path, name: str) -> dict[str, Any]:
    """The names and shapes of a published checkpoint, and what else is known of it."""
    return json.loads((shared / "golden" / "manifests" / f"{name}.json").read_text())


def check_statistics(outputs: Tensors, expected: dict[str, Any], limit: float) -> None:
    """Assert that outputs of modules have the authors' shapes, statistics and first values.

    Args:
        outputs: By the module's name.
        expected: By the same name, as goldens state them.
        limit: Largest difference.
    """
    assert outputs.keys() == expected.keys()
    for name, facts in expected.items():
        out = outputs[name]
        first = facts["first"]
        assert list(out.shape) == facts["shape"], name
        assert out.flatten()[: len(first)].tolist() == pytest.approx(first, abs=limit), name
        assert out.double().mean().item() == pytest.approx(facts["mean"], abs=limit), name
        assert out.abs().max().item() == pytest.approx(facts["abs_max"], abs=limit), name
        assert out.double().std().item() == pytest.approx(facts["std"], abs=limit), name


def recorded(network: nn.Module, names: list[str], run: Any) -> Tensors:
    """What modules put out while `run` runs, by their names; of a tuple its first."""
    seen: Tensors = {}
    handles = []
    for name in names:

        def keep(_module: nn.Module, _inputs: Any, out: Any, name: str = name) -> None:
            seen[name] = out[0] if isinstance(out, tuple) else out

        handles.append(network.get_submodule(name).register_forward_hook(keep))
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return seen
