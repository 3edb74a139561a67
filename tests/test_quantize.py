"""The quantize pass on the nano model: structure, exact transforms, and better figures from better methods."""

import copy

import pytest
import torch

from compress.checkpoint import convert_all, load_model, save_model
from compress.data.calibration import calibration_images
from compress.errors import UserError
from compress.passes.base import FitContext
from compress.passes.quantize import PINS_8_BIT, Quantize, skip_concatenations
from compress.passes.strip import Strip
from compress.quant.distributed import add_transforms, fit_component, observe, quant_layers, set_mode, start
from compress.quant.layers import QuantLayer, SplitConv2d
from compress.sources.osediff import OSEDiffSource

SMALL = {"images": 2, "size": 32}
SEED = 9


@pytest.fixture(scope="module")
def nano():
    source = OSEDiffSource()
    model = source.build()
    source.load(model)
    return source, model


@pytest.fixture(scope="module")
def lr():
    """One of the images that SMALL calibrates on."""
    return calibration_images("embedded", 2, 32, seed=SEED)[1]


def compressed(nano, passes):
    model = copy.deepcopy(nano[1])
    for step in passes:
        step.convert(model)
        step.fit(model, FitContext(source=nano[1], seed=SEED))
    return model


def snr(model, reference, lr):
    with torch.no_grad():
        a, b = reference.network(lr), model.network(lr)
    return (10 * torch.log10(1 / (a - b).square().mean())).item()


def test_every_layer_is_converted_and_pins_hold():
    model = convert_all(OSEDiffSource(), [Quantize(weights=6, activations=6)])
    plain = [n for n, m in model.named_modules() if type(m) in (torch.nn.Conv2d, torch.nn.Linear)]
    assert plain == []
    bits = {n: (m.weight_bits, m.act_bits) for n, m in model.named_modules() if isinstance(m, QuantLayer)}
    assert {n for n, b in bits.items() if b == (8, 8)} == set(PINS_8_BIT)
    assert {b for n, b in bits.items() if n not in PINS_8_BIT} == {(6, 6)}


def test_skip_concatenations_are_split_at_the_seam():
    source = OSEDiffSource()
    seams = skip_concatenations(source.build())
    model = convert_all(source, [Quantize()])
    split = {n: m for n, m in model.named_modules() if isinstance(m, SplitConv2d)}
    assert split.keys() == seams.keys() and len(split) == 16
    # The first up block reads the middle block's 80 channels beside the last skip's 80.
    assert split["denoiser.unet.up_blocks.0.resnets.0.conv1"].hidden == 80
    assert not any(isinstance(m, SplitConv2d) for m in convert_all(source, [Quantize(split_skips=False)]).modules())


@pytest.mark.parametrize("method", ["minmax", "passionsr"])
def test_structure_from_config_equals_structure_after_fit(nano, lr, tmp_path, method):
    passes = [Strip(), Quantize(method=method, epochs=1, calibration=SMALL)]
    model = compressed(nano, passes)
    save_model(model, tmp_path / "m.safetensors", nano[0], passes)
    again = load_model(tmp_path / "m.safetensors")
    with torch.no_grad():
        assert torch.equal(model.network(lr), again.network(lr))
    assert (tmp_path / "m.safetensors").stat().st_size < 0.3 * 4 * sum(p.numel() for p in nano[1].parameters())


def test_transforms_change_nothing_in_float(nano, lr):
    """With 16 bits everywhere the folded transforms are the only difference to the source."""
    model = compressed(nano, [Strip(), Quantize(weights=16, activations=16, epochs=0, calibration=SMALL)])
    assert snr(model, nano[1], lr) > 60


def test_fold_is_exact(nano):
    model = copy.deepcopy(nano[1])
    step = Quantize(calibration=SMALL)
    Strip().convert(model)
    before = copy.deepcopy(model.denoiser)
    step.convert(model)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.1
    observe(model.denoiser, model.denoiser, [z])
    sites = add_transforms(model.denoiser, 0.5)
    start(model.denoiser, False, False)
    kinds = {type(s.producer).__name__ for s, _ in sites}
    assert {"LayerNorm", "GroupNorm", "ConstantProjection", "QuantLinear"} <= kinds
    with torch.no_grad():
        for site, transform in sites:
            site.fold(transform)
        for _, layer in quant_layers(model.denoiser):
            fit = layer.fit
            # What freezing would write, without rounding.
            bias = fit.transformed_bias(layer.bias)
            fit.weight = fit.transformed_weight()
            layer.bias = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)
            fit.transform = None
        set_mode(model.denoiser, "float")
        ours, theirs = model.denoiser(z), before(z)
    assert (ours - theirs).norm() / theirs.norm() <= 1e-5


def test_learning_never_loses_on_the_calibration_images(nano, lr):
    model = copy.deepcopy(nano[1])
    step = Quantize(weights=6, activations=6)
    step.convert(model)
    with torch.no_grad():
        target = [nano[1].encoder(lr)]
    figures = fit_component("encoder", model.encoder, model.encoder, [lr], target, search=True, transforms=True,
                            alpha=0.3, epochs=3, lr=1e-3, seed=0)
    before, after = figures["boundary_error"]
    assert after <= before < 0.5


def test_passionsr_beats_minmax_at_6_bits(nano):
    """On the images of the calibration; what it is worth on others takes the recipes' 16 larger ones to show."""
    images = calibration_images("embedded", 2, 32, seed=SEED)
    models = [compressed(nano, [Strip(), Quantize(method=m, weights=6, activations=6, epochs=1, calibration=SMALL)])
              for m in ("minmax", "passionsr")]
    figures = [sum(snr(m, nano[1], x) for x in images) for m in models]
    assert figures[1] > figures[0] + 0.5


def test_more_bits_are_better(nano, lr):
    figures = [snr(compressed(nano, [Quantize(method="minmax", weights=b, activations=b, calibration=SMALL)]),
                   nano[1], lr) for b in (4, 8, 16)]
    assert figures == sorted(figures) and figures[1] > 30


def test_components_are_selectable(nano):
    model = convert_all(OSEDiffSource(), [Quantize(components=("denoiser",))])
    assert not any(isinstance(m, QuantLayer) for m in model.decoder.modules())
    # The same pass twice, on what is left.
    both = convert_all(OSEDiffSource(), [Quantize(components=("denoiser",)), Quantize(components=("decoder",), weights=4)])
    assert {m.weight_bits for m in both.decoder.modules() if isinstance(m, QuantLayer)} == {4, 8}
    with pytest.raises(UserError, match="no convolution or linear layer is left"):
        convert_all(OSEDiffSource(), [Quantize(), Quantize()])


@pytest.mark.parametrize("options, said", [
    ({"calibration": {"images": 0}}, "calibration.images is 0"),
    ({"calibration": {"size": 40}}, "not a multiple of 16"),
    ({"calibration": {"data": "no/such/folder"}}, "no such folder"),
])
def test_bad_calibration(nano, options, said):
    with pytest.raises(UserError, match=said):
        compressed(nano, [Quantize(**options)])


def test_same_seed_same_model(nano, lr):
    passes = [Quantize(weights=6, activations=6, epochs=1, calibration=SMALL, components=("encoder",))]
    a, b = (compressed(nano, passes) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
