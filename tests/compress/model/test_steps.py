"""A process that calls any component between steps, and one that decides how many it takes."""

from copy import deepcopy

import pytest
import torch
from support.stepping_process import Redecoding, UntilSettled, stepping
from torch import nn

from compress.cost.count import measure
from compress.data.config import Calibration
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel, Tiling
from compress.passes.quantize import Quantize
from compress.quant.fit import LayerFit

SETTLED = 1e9  # any step changes less
NEVER = 0.0  # no step does
NAMES = ("preprocessor", "encoder", "denoiser", "decoder")
SMALL = Calibration(images=2, size=32)


@pytest.fixture(scope="module")
def model() -> SRModel:
    return stepping(Redecoding())


def image(height: int, width: int) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def calls_of(model: SRModel, component: str, run) -> int:
    """How often a component is called in a run."""
    calls = []
    handle = getattr(model, component).register_forward_hook(lambda *_: calls.append(1))
    try:
        run()
    finally:
        handle.remove()
    return len(calls)


def by_hand(model: SRModel, lr: torch.Tensor) -> torch.Tensor:
    """Redecoding written out."""
    condition = model.preprocessor(lr)
    latent = model.encoder(condition)
    clean = model.denoiser(latent, torch.tensor([799]), condition)
    for timestep in (599, 399):
        seen = nn.functional.avg_pool2d(model.decoder(clean).clamp(0, 1), 4)
        mixed = 0.4 * model.preprocessor(seen) + 0.6 * condition
        clean = model.denoiser(0.8 * clean + 0.2 * latent, torch.tensor([timestep]), mixed)
    return model.decoder(clean)


def test_the_decoder_runs_between_steps(model):
    lr = image(16, 24)
    assert torch.allclose(model.network(lr), by_hand(model, lr), atol=1e-6)
    assert calls_of(model, "decoder", lambda: model.network(lr)) == 3


def test_what_runs_between_steps_runs_in_tiles(model):
    lr = image(90, 75)
    whole = deepcopy(model)
    whole.tiling = Tiling(tile=96, margin=8)
    assert calls_of(model, "decoder", lambda: model(lr)) > 3 * 2
    # The decoder sees 1 pixel beyond a tile's border, the others 3 at most.
    assert (model(lr) - whole(lr)).abs().max() < 1e-3


def test_it_is_counted_as_often_as_it_runs(model):
    pixels = 8 * 12
    assert measure(model, (16, 24)).component("decoder").macs_paper == 3 * pixels * 9 * 8 * 192


def test_a_value_that_no_step_reads_is_refused(model):
    class Wrong(Redecoding):
        def restore(self, latent, steps, condition):
            return steps(latent, torch.tensor([0]), hint=condition)

    with pytest.raises(ValueError, match="no component of a step reads hint"):
        stepping(Wrong()).network(image(16, 16))


def test_a_component_that_is_not_there_is_refused():
    class Wrong(Redecoding):
        def restore(self, latent, steps, condition):
            return steps.call("tagger", condition)

    with pytest.raises(KeyError, match="tagger"):
        stepping(Wrong()).network(image(16, 16))


@pytest.mark.parametrize(("least", "steps"), [(SETTLED, 1), (NEVER, 4)])
def test_the_image_decides_how_many_steps_there_are(least, steps):
    model = stepping(UntilSettled(least))
    lr = image(16, 24)
    assert calls_of(model, "denoiser", lambda: model.network(lr)) == steps
    assert calls_of(model, "denoiser", lambda: model(lr)) == steps


def test_a_plan_counts_the_most_steps():
    most = measure(stepping(UntilSettled(NEVER)), (16, 24))
    assert measure(stepping(UntilSettled(SETTLED)), (16, 24)).macs_paper == most.macs_paper


@pytest.mark.parametrize("process", [Redecoding(), UntilSettled(0.02)], ids=["re", "until"])
def test_both_are_quantised(process):
    model = stepping(process)
    twin = deepcopy(model)
    step = Quantize(method="passionsr", epochs=1, components=NAMES, calibration=SMALL)
    step.convert(twin)
    step.fit(twin, FitContext(source=model))
    assert not any(isinstance(module, LayerFit) for module in twin.modules())
    lr = image(32, 32)
    error = (twin(lr) - model(lr)).square().mean()
    assert -10 * error.log10() > 25
