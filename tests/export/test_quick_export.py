"""What torch's exporter writes stays the same when it is made quicker."""

import gc

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnxscript import rewriter
from support.onnx_graphs import exported, exported_by_torch, kinds, make
from torch import nn

from export.graphs.quick_export import quick_export


def halves() -> onnx.ModelProto:
    """The sum of two halves, which onnxscript's one rule of several ends makes a Split of."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Slice", ["r", "middle", "end", "axis"], ["b"]),
        helper.make_node("Slice", ["r", "start", "middle", "axis"], ["a"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    limits = {"start": 0, "middle": 2, "end": 4, "axis": 3}
    return make(nodes, [1, 8, 6, 4], {name: np.array([n]) for name, n in limits.items()})


TRACE = "pkg.torch.onnx.stack_trace"


def drop_traces(model: onnx.ModelProto) -> int:
    """Take the tracebacks out of the nodes, and say how many there were."""
    found = 0
    for node in model.graph.node:
        kept = [entry for entry in node.metadata_props if entry.key != TRACE]
        found += sum(entry.key == TRACE and entry.value != "" for entry in node.metadata_props)
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    return found


class Promoted(nn.Module):
    """A float by an integer, which the exporter casts, and more nodes after it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x * torch.arange(8)) + 1


NETWORKS = {
    "a norm": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.SiLU()),
    "types promoted": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Promoted()),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_is_that_of_torch_alone_but_for_tracebacks(name):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    x = torch.randn(1, 3, 8, 8)
    alone = exported_by_torch(network, x)
    quick = exported(network, x)
    assert drop_traces(alone) > 0 == drop_traces(quick)
    assert quick.SerializeToString() == alone.SerializeToString()


def test_the_code_of_a_graph_is_written_when_it_is_read():
    x = torch.randn(4)
    with quick_export():
        read, called, again = (torch.fx.symbolic_trace(nn.ReLU()) for _ in range(3))
        assert "_code" not in vars(read)
        assert torch.equal(called(x), x.relu())
        again.recompile()
        assert "_code" not in vars(again)
    assert "relu" in read.code
    again.recompile()
    for module in (read, called, again):
        assert "_code" in vars(module)
        assert torch.equal(module(x), x.relu())


def test_rules_of_several_ends_act():
    alone = rewriter.rewrite(halves())
    assert "Split" in kinds(alone)
    with quick_export():
        assert rewriter.rewrite(halves()) == alone


@pytest.fixture
def thawed():
    """A process that has frozen nothing, as a command of a user has."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.mark.usefixtures("thawed")
@pytest.mark.parametrize("fails", [False, True])
def test_the_collector_works_afterwards_as_before(fails):
    before = gc.get_threshold()
    try:
        with quick_export():
            assert gc.get_threshold() != before
            assert gc.get_freeze_count() > 0
            if fails:
                raise ValueError
    except ValueError:
        pass
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


def test_what_the_caller_has_frozen_stays_so():
    gc.freeze()  # as tests/conftest.py does
    frozen = gc.get_freeze_count()
    with quick_export():
        assert 0 < gc.get_freeze_count() <= frozen  # less by what has ended
    assert 0 < gc.get_freeze_count() <= frozen
