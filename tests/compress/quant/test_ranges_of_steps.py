"""Calibration over the steps of a chain: ranges hold what all of them show."""

import torch
from support.tiny_families import tiny_family
from support.tiny_model import with_weights

from compress.data.calibration import as_values
from compress.data.config import Calibration
from compress.passes.quantize import Quantize
from compress.quant.distributed import Options
from compress.quant.fit import RangeFit
from compress.quant.schedule import fit_model, float_outputs


def ranges(model, names: tuple[str, ...], images: list[torch.Tensor]) -> dict[str, tuple]:
    """(low, high) that each quantiser of the converted model observed, before it was frozen."""
    found = {}
    original = RangeFit.start

    def start(self, quantiser, *args):
        original(self, quantiser, *args)
        found[quantiser] = (self.low.item(), self.high.item())

    step = Quantize(method="minmax", components=names, calibration=Calibration(images=1, size=16))
    source = tiny_family("addsr", 2, autoencoder=False)
    step.convert(model)
    RangeFit.start = start
    try:
        options = Options(search=False, transforms=False, distributed=False)
        fit_model(model, source, images, options, dict.fromkeys(names))
    finally:
        RangeFit.start = original
    by_name = {quantiser: name for name, quantiser in model.named_modules()}
    return {by_name[quantiser]: bounds for quantiser, bounds in found.items()}


@torch.no_grad()
def test_components_between_steps_see_every_step():
    """AddSR's refinement decodes after the first step, and makes hint and tokens of the result."""
    source = tiny_family("addsr", 2, autoencoder=False)
    images = [torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))]
    seen: dict[str, list[torch.Tensor]] = {"hint": [], "decoder": [], "control": []}

    def watch(call, inputs, _outputs):
        if call.component in seen:
            seen[call.component].append(inputs[0])

    [values] = as_values(source, images)
    before = source.values_before("hint", values)
    seen["hint"].append(before["condition"])
    clean = source.restore(source.values_before("control", values), watch)
    seen["decoder"].append(clean)
    assert {name: len(found) for name, found in seen.items()} == dict.fromkeys(seen, 2)
    model = tiny_family("addsr", 2, autoencoder=False)
    observed = ranges(model, with_weights(model), images)
    for component, layer in (("hint", "conv_in"), ("decoder", "0"), ("control", "conv_in")):
        low, high = observed[f"{component}.{layer}.input"]
        values_seen = torch.cat([x.flatten() for x in seen[component]])
        assert abs(high - values_seen.max().item()) < 1e-4 * abs(high)
        assert abs(low - min(0.0, values_seen.min().item())) < 1e-4 * max(abs(low), 1)


@torch.no_grad()
def test_the_float_run_notes_predictions_of_all_steps():
    source = tiny_family("ccsr", 2, autoencoder=False)
    images = [torch.rand(1, 3, 16, 16)]
    outputs = float_outputs(source, images, None)
    assert len(outputs.predictions[0]) == 2
    assert outputs.between == []
