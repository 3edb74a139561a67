"""Ranges of their own for each step of a chain."""

import copy

import pytest
import torch
from support.stepping_process import UntilSettled, stepping
from support.tiny_families import tiny_family

from compress.core.config import validate
from compress.core.errors import UserError
from compress.data.calibration import as_values, calibration_images
from compress.data.config import Calibration
from compress.model.passes import FitContext
from compress.model.sr_model import Tiling
from compress.passes.quantize import Quantize
from compress.quant.by_step import has_ranges_by_step
from compress.quant.points import points_of
from compress.quant.quantiser import ByStep, TensorQuantiser
from compress.recipe.export_options import ExportOptions
from export.parity.rows import failures
from export.targets.export_folder import export

STEPS = 2
PARTS = ("control", "denoiser")
SIZE = (16, 16)


def pass_of(**changes) -> Quantize:
    given = {"components": PARTS, "calibration": Calibration(images=2, size=16)}
    return Quantize(method="minmax", **given | {"ranges": "by_step"} | changes)


@pytest.fixture(scope="module")
def source():
    """A chain whose state grows from step to step."""
    model = tiny_family("ccsr", STEPS, autoencoder=False)
    with torch.no_grad():
        for parameter in model.denoiser.unet.conv_out.parameters():
            parameter *= 20
    return model


def quantised(source, **changes):
    model = copy.deepcopy(source)
    step = pass_of(**changes)
    step.convert(model)
    step.fit(model, FitContext(source=source))
    return model


@pytest.fixture(scope="module")
def by_step(source):
    return quantised(source)


def lows_and_highs(quantiser: TensorQuantiser) -> tuple[float, float]:
    scale, zero = quantiser.scale.item(), quantiser.zero_point.item()
    return (quantiser.grid.qmin - zero) * scale, (quantiser.grid.qmax - zero) * scale


def test_what_runs_at_each_step_has_a_range_for_each(by_step):
    for name in PARTS:
        plain = {
            path
            for path, module in getattr(by_step, name).named_modules()
            if isinstance(module, TensorQuantiser) and ".steps." not in path and not module.pinned
        }
        assert not plain
    first = by_step.denoiser.unet.conv_in.input
    assert isinstance(first, ByStep)
    assert len(list(first.quantisers())) == STEPS


def test_components_outside_the_chain_keep_one(source):
    model = copy.deepcopy(source)
    pass_of(components=("encoder", *PARTS)).convert(model)
    assert not has_ranges_by_step(model.encoder)
    assert has_ranges_by_step(model.denoiser)


@torch.no_grad()
def test_a_range_holds_what_its_step_shows(source, by_step):
    """Of the calibration images, the state that the float UNet reads."""
    seen: list[list[torch.Tensor]] = [[] for _ in range(STEPS)]
    for values in as_values(source, calibration_images("embedded", 2, 16, 0)):
        states: list[torch.Tensor] = []

        def watch(call, inputs, _outputs, states=states):
            if call.component == "denoiser":
                states.append(inputs[0])

        source.restore(source.before_process({**values, **source.constants()}), watch)
        for step, state in enumerate(states):
            seen[step].append(state)
    ranges = [lows_and_highs(one) for one in by_step.denoiser.unet.conv_in.input.quantisers()]
    assert ranges[0] != ranges[1]
    for states, (low, high) in zip(seen, ranges, strict=True):
        span = high - low
        assert abs(max(state.max().item() for state in states) - high) < span / 100
        assert abs(min(state.min().item() for state in states) - low) < span / 100


@torch.no_grad()
def test_they_come_nearer_than_one_range_for_all(source, by_step):
    lr = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    wanted = source.network(lr)
    errors = [
        (model.network(lr) - wanted).square().mean()
        for model in (by_step, quantised(source, ranges="shared"))
    ]
    assert errors[0] < errors[1]


@torch.no_grad()
def test_in_tiles_each_step_has_its_own(source, by_step):
    """A tile of the first step is not counted as a step."""
    lr = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    used: list[int] = []
    model = copy.deepcopy(by_step)
    model.tiling = Tiling(tile=16, overlap=8)
    for step, one in enumerate(model.denoiser.unet.conv_in.input.steps):
        one.register_forward_hook(lambda *_, step=step: used.append(step))
    model(lr)
    assert used == sorted(used)
    assert used.count(0) == used.count(1) > 1


def test_values_go_into_a_fresh_model(source, by_step):
    fresh = copy.deepcopy(source).to("meta")
    pass_of().convert(fresh)
    fresh.load_state_dict(by_step.state_dict(), assign=True)
    lr = torch.rand(1, 3, *SIZE)
    with torch.no_grad():
        assert torch.equal(fresh.network(lr), by_step.network(lr))


def test_one_step_needs_no_more_than_one(source):
    model = tiny_family("ccsr", 1, autoencoder=False)
    pass_of().convert(model)
    assert not has_ranges_by_step(model)


def test_an_earlier_pass_keeps_its_ranges(source):
    model = copy.deepcopy(source)
    pass_of(components=("denoiser",), ranges="shared", skip=("*conv_out",)).convert(model)
    pass_of(components=("denoiser",)).convert(model)
    assert isinstance(model.denoiser.unet.conv_in.input, TensorQuantiser)
    assert isinstance(model.denoiser.unet.conv_out.input, ByStep)


def test_tensors_between_operators_have_a_range_for_each(source):
    model = copy.deepcopy(source)
    pass_of(components=("denoiser",), placement="full").convert(model)
    table = points_of(model.denoiser).table
    assert any(isinstance(one, ByStep) for one in table.values())
    pinned = [one for one in table.values() if isinstance(one, TensorQuantiser)]
    assert pinned
    assert all(one.pinned for one in pinned)


@pytest.mark.slow
def test_the_whole_chain_is_one_graph(by_step, tmp_path):
    options = ExportOptions(target="onnx", lr_size=SIZE, images=1, threads=1)
    made = export(by_step, tmp_path / "onnx", options)
    assert {row["file"] for row in made.rows} == {"model.onnx"}
    assert failures(made.rows) is None


def test_its_components_have_no_graphs_of_their_own(by_step, tmp_path):
    options = ExportOptions(target="onnx", components=("denoiser",))
    with pytest.raises(UserError, match="ranges of its own for each step"):
        export(by_step, tmp_path / "onnx", options)


def test_a_number_of_steps_by_the_image_is_refused():
    with pytest.raises(UserError, match="UntilSettled decides for each image"):
        pass_of(components=("denoiser",)).convert(stepping(UntilSettled(0.02)))


def test_learned_ranges_are_refused():
    recipe = {"pass": "quantize", "method": "passionsr", "ranges": "by_step"}
    with pytest.raises(UserError, match="set method: minmax, or ranges: shared"):
        validate(Quantize, recipe, "passes.0")
