"""The quantize pass on the nano: structure, exact transforms, methods that pay."""

import copy

import pytest
import torch
from support.tiny_model import TinySource, tiny

from compress.core.config import validate
from compress.core.errors import UserError
from compress.cost.count import measure
from compress.data.calibration import calibration_images
from compress.families import FAMILIES
from compress.families.osediff import OSEDiffSource
from compress.model.passes import FitContext
from compress.passes.quantize import Quantize
from compress.passes.strip import Strip
from compress.quant.correction import correct_biases
from compress.quant.distributed import Options, add_transforms, fit_component
from compress.quant.layer_plan import skip_concatenations
from compress.quant.layers import QuantLayer, SplitConv2d
from compress.quant.objective import Objective
from compress.quant.ranges import observe, quant_layers, set_mode, start_ranges
from compress.recipe.checkpoint import convert_all, load_model, save_model

SMALL = {"images": 2, "size": 16}
PINS_8_BIT = (
    "denoiser.unet.time_embedding.linear_1",
    "denoiser.unet.conv_out",
    "encoder.quant_conv",
    "encoder.encoder.conv_out",
    "decoder.post_quant_conv",
    "decoder.decoder.conv_out",
)
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
    return calibration_images("embedded", 2, 16, seed=SEED)[1]


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
    bits = {
        n: (m.weight_bits, m.act_bits)
        for n, m in model.named_modules()
        if isinstance(m, QuantLayer)
    }
    assert {n for n, b in bits.items() if b == (8, 8)} == set(PINS_8_BIT)
    assert {b for n, b in bits.items() if n not in PINS_8_BIT} == {(6, 6)}


def test_skip_concatenations_are_split_at_the_seam():
    source = OSEDiffSource()
    seams = skip_concatenations(source.build())
    model = convert_all(source, [Quantize()])
    split = {n: m for n, m in model.named_modules() if isinstance(m, SplitConv2d)}
    assert split.keys() == seams.keys()
    assert len(split) == 16
    # The first up block reads the middle block's 32 channels beside the last skip's 32.
    assert split["denoiser.unet.up_blocks.0.resnets.0.conv1"].hidden == 32
    assert not any(
        isinstance(m, SplitConv2d)
        for m in convert_all(source, [Quantize(split_skips=False)]).modules()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"method": "minmax"},
        {"method": "passionsr"},
        {
            "placement": "full",
            "low_rank": 4,
            "explicit": True,
            "bias_correction": True,
            "epochs": 0,
        },
    ],
    ids=str,
)
def test_structure_from_config_equals_structure_after_fit(lr, tmp_path, monkeypatch, options):
    monkeypatch.setitem(FAMILIES, "tiny", TinySource)
    source = TinySource()
    passes = [Strip(), Quantize(**{"epochs": 1, "calibration": SMALL, **options})]
    model = compressed((source, tiny()), passes)
    save_model(model, tmp_path / "m.safetensors", source, passes)
    again = load_model(tmp_path / "m.safetensors")
    with torch.no_grad():
        assert torch.equal(model.network(lr), again.network(lr))


@pytest.mark.slow
def test_the_nano_in_8_bits_has_less_than_0_3_of_its_bytes_and_its_file_0_4(nano, lr, tmp_path):
    passes = [Strip(), Quantize(method="minmax", calibration=SMALL)]
    model = compressed(nano, passes)
    save_model(model, tmp_path / "m.safetensors", nano[0], passes)
    again = load_model(tmp_path / "m.safetensors")
    with torch.no_grad():
        assert torch.equal(model.network(lr), again.network(lr))
    assert (tmp_path / "m.safetensors").stat().st_size < 0.4 * 4 * sum(
        p.numel() for p in nano[1].parameters()
    )
    assert measure(model, (32, 32)).bytes < 0.3 * measure(nano[1], (32, 32)).bytes


@pytest.mark.slow
def test_transforms_change_nothing_in_float(lr):
    """With 16 bits everywhere the folded transforms are the only difference to the source."""
    source = tiny()
    model = compressed(
        (None, source), [Strip(), Quantize(weights=16, activations=16, epochs=0, calibration=SMALL)]
    )
    assert snr(model, source, lr) > 60


def test_fold_is_exact(nano):
    model = copy.deepcopy(nano[1])
    step = Quantize(calibration=SMALL)
    Strip().convert(model)
    before = copy.deepcopy(model.denoiser)
    step.convert(model)
    z = torch.randn(1, 12, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.1
    observe(model.denoiser, model.denoiser, [z])
    sites = add_transforms(model.denoiser, 0.5)
    start_ranges(model.denoiser, False, False)
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


def fit_encoder(nano, images, step, **options):
    model, source = copy.deepcopy(nano[1]), nano[1]
    step.convert(model)
    with torch.no_grad():
        targets = [source.encoder(x) for x in images]
    objective = Objective(model.encoder, images, targets)
    flow = getattr(model.encoder, "flow", None)
    fitted = fit_component("encoder", model.encoder, objective, Options(**options), flow)
    error = objective.mean_error()
    fitted.freeze()
    frozen = objective.mean_error()
    # What was learned is what is stored, up to codes of activations that a last bit flips.
    assert frozen == pytest.approx(error, rel=0.02 if step.activations == 16 else 0.1)
    return fitted.figures, frozen


@pytest.mark.slow
def test_learning_never_loses_on_the_calibration_images(nano, lr):
    step = Quantize(weights=6, activations=6, components=("encoder",))
    figures, _ = fit_encoder(nano, [lr], step, epochs=3)
    before, after = figures["boundary_error"]
    assert after <= before < 0.5


@pytest.mark.slow
def test_rounding_with_error_feedback_pays_at_4_bits(nano):
    step = Quantize(weights=4, activations=16, components=("encoder",))
    images = calibration_images("embedded", 3, 16, seed=SEED)
    plain = fit_encoder(nano, images, step, epochs=0)[1]
    figures, rounded = fit_encoder(nano, images, step, epochs=0, feedback=True)
    assert rounded < 0.7 * plain
    assert figures["rounding_error"][1] == pytest.approx(rounded, rel=0.02)


@pytest.mark.slow
def test_bias_correction_takes_the_mean_error_of_a_layer_away(nano):
    """Up to 16-bit inputs' rounding, for a 1x1 convolution: zero padding has another mean."""
    model = copy.deepcopy(nano[1])
    Quantize(weights=4, activations=16, components=("encoder",)).convert(model)
    layer = torch.nn.Sequential(model.encoder.encoder.down_blocks[1].resnets[0].conv_shortcut)
    x = torch.randn(1, layer[0].in_channels, 8, 8, generator=torch.Generator().manual_seed(0)) + 1
    with torch.no_grad():
        target = layer(x)
    observe(layer, layer, [x])
    start_ranges(layer, False, False)
    set_mode(layer, "quantise")

    def mean_shift():
        with torch.no_grad():
            return (layer(x) - target).mean((0, 2, 3)).abs().max().item()

    before = mean_shift()
    assert correct_biases(quant_layers(layer), layer, [x]) == 1
    assert mean_shift() < 0.01 * before


@pytest.mark.slow
def test_bias_correction_is_kept_only_where_the_component_gains(nano):
    step = Quantize(weights=4, activations=16, components=("encoder",))
    images = calibration_images("embedded", 3, 16, seed=SEED)
    figures, error = fit_encoder(nano, images, step, epochs=0, bias=True)
    before, corrected = figures["bias_error"]
    assert error == pytest.approx(min(before, corrected), rel=0.02)
    assert (figures["corrected_biases"] > 20) == (corrected < before)


@pytest.mark.slow
def test_low_rank_branch_pays_at_4_bits(nano, lr):
    """A higher rank leaves less of the weights to round, and less error of the result.

    That is with error feedback. Rounded to nearest, this small encoder's error goes either way with
    the rank, and so it does at small ranks.
    """
    left, errors = [], []
    for rank in (1, 4, 16):
        step = Quantize(weights=4, activations=16, components=("encoder",), low_rank=rank)
        encoder = copy.deepcopy(nano[1])
        step.convert(encoder)
        encoder = encoder.encoder
        observe(encoder, encoder, [lr])
        start_ranges(encoder, False, True)
        with torch.no_grad():
            left.append(
                sum(
                    ((f.quantised_weight(q) - f.residual(q)).norm() / f.weight.norm()).item() ** 2
                    for _, q in quant_layers(encoder)
                    for f in [q.fit]
                )
            )
        if rank != 4:
            fit = fit_encoder(nano, [lr], step, epochs=0, transforms=False, feedback=True)
            errors.append(fit[1])
    assert left == sorted(left, reverse=True)
    assert left[2] < 0.8 * left[0]
    assert errors[1] < 0.5 * errors[0], errors


@pytest.mark.slow
def test_low_rank_branch_is_the_missing_share_of_the_weight(nano, lr):
    """Codes' weight and branch each see their own input, and the layer adds their results."""
    model = copy.deepcopy(nano[1])
    Quantize(weights=4, activations=8, components=("encoder",), low_rank=8).convert(model)
    observe(model.encoder, model.encoder, [lr])
    start_ranges(model.encoder, False, True)
    set_mode(model.encoder, "quantise")
    layer = model.encoder.encoder.down_blocks[1].resnets[0].conv1
    x = torch.randn(1, layer.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        share = layer.branch.weight()
        torch.testing.assert_close(layer.fit.residual(layer) + share, layer.fit.weight)
        expected = layer.apply_weight(
            layer.input(x), layer.fit.quantised_weight(layer), layer.bias
        ) + layer.apply_weight(x, share, None)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_equalising_pays_where_channels_differ(nano, lr):
    """encoder.conv_out and quant_conv have nothing between them; their channels are made uneven."""
    uneven = copy.deepcopy(nano[1])
    factors = torch.logspace(-3, 3, uneven.encoder.quant_conv.in_channels)
    last = uneven.encoder.encoder.conv_out
    last.weight *= factors.view(-1, 1, 1, 1)
    last.bias *= factors
    uneven.encoder.quant_conv.weight /= factors.view(1, -1, 1, 1)
    options = {"weights": 8, "activations": 8, "components": ("encoder",), "transforms": False}
    errors = [
        fit_encoder(
            (nano[0], uneven),
            [lr],
            Quantize(**options, equalise=e),
            epochs=0,
            transforms=False,
            equalise=e,
        )[1]
        for e in (False, True)
    ]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.slow
def test_explicit_transforms_are_taken_where_they_pay(nano, lr):
    """A residual block whose second norm gives one channel a hundred times the others' range."""
    uneven = copy.deepcopy(nano[1])
    block = uneven.encoder.encoder.down_blocks[1].resnets[0]
    block.norm2.weight[3] *= 100
    block.norm2.bias[3] = 0
    block.conv2.weight[:, 3] /= 100
    options = {"weights": 8, "activations": 8, "components": ("encoder",)}
    found = [
        fit_encoder((nano[0], uneven), [lr], Quantize(**options, explicit=e), epochs=0)
        for e in (False, True)
    ]
    assert "encoder.down_blocks.1.resnets.0.conv2" in found[1][0]["explicit_transforms"]
    assert len(found[1][0]["explicit_transforms"]) < 20
    assert found[1][1] < found[0][1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "gone"), [("lbq", "boundary_error"), ("let", "transform_error"), ("dqc", None)]
)
def test_each_part_of_passionsr_can_be_taken_away(part, gone):
    step = Quantize(
        components=("encoder", "denoiser"), epochs=1, calibration={"images": 1, "size": 16}
    )
    model = tiny()
    without = step.model_copy(update={"ablate": (part,)})
    without.convert(model)
    figures = without.fit(model, FitContext(source=tiny(), seed=SEED))
    assert gone not in figures["encoder"]
    assert figures["encoder"]["transforms"] >= 0
    if part == "let":
        assert figures["encoder"]["transforms"] == 0
    assert not without.has_transforms if part == "let" else without.has_transforms


@pytest.mark.slow
def test_backward_order_and_polish_lower_the_image_error():
    step = Quantize(
        weights=6,
        activations=6,
        epochs=1,
        order="backward",
        polish=1,
        components=("encoder", "decoder"),
        calibration={"images": 1, "size": 16},
    )
    model = tiny()
    step.convert(model)
    figures = step.fit(model, FitContext(source=tiny(), seed=SEED))
    before, after = figures["polish"]["error"]
    assert after <= before
    assert list(figures)[-1] == "polish"


def pair_folders(tmp_path, lr_names, hr_names, scale=4):
    from compress.core.image import write_image

    for folder, names, side in (("lr", lr_names, 40), ("hr", hr_names, 40 * scale)):
        for i, name in enumerate(names):
            generator = torch.Generator().manual_seed(i)
            write_image(
                torch.rand(
                    1, 3, side + 8 * (scale if folder == "hr" else 1) * i, side, generator=generator
                ),
                tmp_path / folder / f"{name}.png",
            )
    return {"data": str(tmp_path / "lr"), "hr": str(tmp_path / "hr"), "images": 2, "size": 32}


@pytest.mark.slow
def test_photographs_as_the_decoders_target(nano, tmp_path):
    """Images of different sizes; the decoder is fitted against what belongs to each crop."""
    from compress.core.image import read_image
    from compress.data.calibration import calibration_pairs

    calibration = pair_folders(tmp_path, ["a", "b"], ["a", "b"])
    (small, large), _ = calibration_pairs(
        *(calibration[k] for k in ("data", "hr", "images", "size")), 0
    )
    assert small.shape == (1, 3, 32, 32)
    assert large.shape == (1, 3, 128, 128)
    whole = read_image(tmp_path / "hr" / "a.png")
    assert any(
        torch.equal(large, whole[..., y : y + 128, x : x + 128])
        for y in range(0, 33, 4)
        for x in range(0, 33, 4)
    )
    step = Quantize(method="minmax", target="hr", components=("decoder",), calibration=calibration)
    model = copy.deepcopy(nano[1])
    step.convert(model)
    figures = step.fit(model, FitContext(source=nano[1]))
    # Noise as a photograph: the float model is as far from it as the quantised one.
    assert figures["decoder"]["start_error"] == pytest.approx(
        figures["float_model"]["error_to_references"], rel=0.05
    )


@pytest.mark.parametrize(
    ("hr_names", "scale", "said"),
    [
        (["a"], 4, "no photograph 'b' for b.png"),
        (["a", "b"], 3, "is not 4 times"),
        ([], 4, "no such folder"),
    ],
)
def test_bad_pairs(nano, tmp_path, hr_names, scale, said):
    calibration = pair_folders(tmp_path, ["a", "b"], hr_names, scale)
    with pytest.raises(UserError, match=said):
        compressed(
            nano,
            [
                Quantize(
                    method="minmax", target="hr", components=("decoder",), calibration=calibration
                )
            ],
        )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"weights": 5}, "5 bits are not supported; choose one of 4, 6, 8, 16"),
        ({"pins": {"*": 7}}, "pin '\\*': 7 bits are not supported"),
        ({"pins": {"*": {"weights": 3}}}, "pin '\\*': 3 bits are not supported"),
        ({"placement": "whole"}, "placement"),
        ({"placement": "full", "outputs": ["*"]}, "remove 'outputs'"),
        ({"placement": "cpu", "attention": True}, "remove 'attention'"),
        ({"norm_stride": 2}, "norm_stride belongs to placement 'full' or 'cpu'"),
        (
            {"reduce_range": True, "weights": 16},
            "reduce_range is for weights of 8 bits and weights is 16",
        ),
        ({"target": "hr", "calibration": {"data": "folder"}}, "set calibration.hr to a folder"),
        ({"target": "hr", "components": ["encoder"]}, "components has no decoder"),
        ({"calibration": {"hr": "folder"}}, "for target 'hr' only"),
        ({"method": "minmax", "low_rank": 8}, "'minmax' learns nothing and has no 'low_rank'"),
        ({"ablate": ["let", "lpq"]}, "lpq"),
    ],
)
def test_configs_that_cannot_be_meant(data, said):
    with pytest.raises(UserError, match=said):
        validate(Quantize, {"pass": "quantize", **data}, "recipe")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"skip": ["decoder.decoder.conv_ou"]},
            "skip pattern 'decoder.decoder.conv_ou' matches no layer .did you mean "
            "'decoder.decoder.conv_out'",
        ),
        ({"pins": {"denoiser.nothing": 8}}, "pins pattern 'denoiser.nothing' matches no layer"),
        ({"outputs": ["decoder.decoder.midblock*"]}, "outputs pattern"),
    ],
)
def test_patterns_that_match_nothing(options, said):
    with pytest.raises(UserError, match=said):
        convert_all(OSEDiffSource(), [Quantize(**options)])


def test_unmerged_lora_is_refused(nano):
    from compress.training.lora import add_lora

    model = copy.deepcopy(nano[1])
    add_lora(model.denoiser.unet, 2)
    with pytest.raises(UserError, match="LoRA adapter that is not merged"):
        Quantize().convert(model)


@pytest.mark.slow
def test_ranges_that_are_not_finite_are_named(nano):
    broken = copy.deepcopy(nano[1])
    broken.encoder.encoder.mid_block.resnets[0].norm1.weight[0] = float("nan")
    with pytest.raises(UserError, match="'s input has values that are not finite"):
        compressed((nano[0], broken), [Quantize(method="minmax", calibration=SMALL)])


@pytest.mark.slow
def test_a_dead_channel_has_a_range(nano, lr):
    """A tensor that is constantly 0 gets a positive scale, and its zeros stay zeros."""
    dead = copy.deepcopy(nano[1])
    norm = dead.encoder.encoder.down_blocks[0].resnets[0].norm2
    norm.weight.zero_()
    norm.bias.zero_()
    dead.encoder.encoder.down_blocks[0].resnets[0].conv1.weight[0].zero_()
    model = compressed(
        (nano[0], dead), [Quantize(components=("encoder",), epochs=1, calibration=SMALL)]
    )
    scales = [m.scale for m in model.modules() if hasattr(m, "grid")]
    weights = [m.weight_scale for m in model.modules() if isinstance(m, QuantLayer)]
    assert all((s > 0).all() for s in scales + weights)
    assert len(scales) > 20
    with torch.no_grad():
        assert torch.isfinite(model.network(lr)).all()


@pytest.mark.slow
def test_pins_give_weights_and_activations_their_own_bits():
    pins = {"decoder.*": 4, "decoder.decoder.conv_out": {"activations": 16}}
    model = convert_all(OSEDiffSource(), [Quantize(weights=4, activations=8, pins=pins)])
    bits = {
        n: (m.weight_bits, m.act_bits)
        for n, m in model.named_modules()
        if isinstance(m, QuantLayer)
    }
    assert bits["decoder.decoder.conv_in"] == (4, 4)
    assert bits["decoder.decoder.conv_out"] == (4, 16)
    assert bits["denoiser.unet.conv_out"] == (8, 8)
    assert bits["denoiser.unet.conv_in"] == (4, 8)


@pytest.mark.slow
def test_passionsr_beats_minmax_at_4_bits(nano):
    """On the calibration images; on others it takes the recipes' 16 larger ones to show."""
    images = calibration_images("embedded", 2, 16, seed=SEED)
    models = [
        compressed(
            nano,
            [Strip(), Quantize(method=m, weights=4, activations=4, epochs=1, calibration=SMALL)],
        )
        for m in ("minmax", "passionsr")
    ]
    figures = [sum(snr(m, nano[1], x) for x in images) for m in models]
    assert figures[1] > figures[0] + 3


@pytest.mark.slow
def test_more_bits_are_better(nano, lr):
    figures = [
        snr(
            compressed(
                nano, [Quantize(method="minmax", weights=b, activations=b, calibration=SMALL)]
            ),
            nano[1],
            lr,
        )
        for b in (4, 8, 16)
    ]
    assert figures == sorted(figures)
    assert figures[1] > 25


@pytest.mark.slow
def test_components_are_selectable(nano):
    model = convert_all(OSEDiffSource(), [Quantize(components=("denoiser",))])
    assert not any(isinstance(m, QuantLayer) for m in model.decoder.modules())
    # The same pass twice, on what is left.
    both = convert_all(
        OSEDiffSource(),
        [Quantize(components=("denoiser",)), Quantize(components=("decoder",), weights=4)],
    )
    assert {m.weight_bits for m in both.decoder.modules() if isinstance(m, QuantLayer)} == {4, 8}
    with pytest.raises(UserError, match="no convolution or linear layer is left"):
        convert_all(OSEDiffSource(), [Quantize(), Quantize()])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"calibration": {"images": 0}}, "calibration.images is 0"),
        ({"calibration": {"size": 40}}, "not a multiple of 16"),
        ({"calibration": {"data": "no/such/folder"}}, "no such folder"),
    ],
)
def test_bad_calibration(nano, options, said):
    with pytest.raises(UserError, match=said):
        compressed(nano, [Quantize(**options)])


@pytest.mark.slow
def test_same_seed_same_model():
    passes = [
        Quantize(weights=6, activations=6, epochs=1, calibration=SMALL, components=("encoder",))
    ]
    a, b = (compressed((None, tiny()), passes) for _ in range(2))
    assert all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )
