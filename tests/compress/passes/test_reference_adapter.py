"""Photographs as a second input: what the adapter adds, and what it leaves alone."""

import copy
from dataclasses import replace

import pytest
import torch
from support.referring import adapter_pass, photographs, referring_nano, with_adapter

from compress.core.errors import UserError
from compress.data.calibration import as_values
from compress.families.osediff import OSEDiffSource
from compress.model.passes import FitContext
from compress.model.references import gather, keep, remember
from compress.model.sr_model import SRModel
from compress.passes.quantize import Quantize
from compress.passes.reference_adapter import ReferenceAdapter
from compress.passes.strip import Strip
from compress.recipe.checkpoint import convert_all, load_model, parse_pass, save_model

LR = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def nano() -> SRModel:
    return referring_nano()


@pytest.fixture(scope="module")
def kept(nano):
    return remember(nano, photographs(2))


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    source = OSEDiffSource()
    model = source.build()
    source.load(model)
    with torch.no_grad():
        return model(LR)


@pytest.mark.slow
@torch.no_grad()
def test_an_adapter_that_is_not_trained_changes_nothing(random_nano):
    before = random_nano(LR)
    model = with_adapter(random_nano, loud=False)
    assert torch.equal(model(LR), before)
    assert torch.equal(model(LR, images=remember(model, photographs(3))), before)


@torch.no_grad()
def test_without_references_any_adapter_changes_nothing(nano, kept, plain):
    assert torch.equal(nano(LR), plain)
    assert (nano(LR, images=kept) - plain).abs().max() > 0.01


@pytest.mark.slow
def test_the_full_model_takes_it():
    source = OSEDiffSource(size="sd21")
    model = convert_all(source, [ReferenceAdapter()])
    references = model.wiring.references
    assert references.kept["keys_1"] == (16 * 16, 640)
    values = model.blank(128, 128)
    assert model.image_of(values).shape == (1, 3, 512, 512)
    kept = keep(model, torch.empty(2, 3, 256, 256, device="meta"))
    assert kept["values_3"].shape == (2, 16, 1280)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["nano", "sd21"])
def test_strip_folds_the_copies_as_well(size):
    model = convert_all(OSEDiffSource(size=size), [adapter_pass(), Strip()])
    for part in (model.reference_encoder, model.reference_query, model.denoiser):
        assert part.context is None
    assert model.image_of(model.blank(32, 32)).shape == (1, 3, 128, 128)


@torch.no_grad()
def test_a_stripped_model_gives_the_same(nano, kept):
    model = copy.deepcopy(nano)
    Strip().convert(model)
    refolded = remember(model, photographs(2))
    for name, value in kept.items():
        torch.testing.assert_close(refolded[name], value, rtol=1e-4, atol=1e-4)
    found = model(LR, images=refolded)
    torch.testing.assert_close(found, nano(LR, images=kept), rtol=0, atol=1e-3)


@torch.no_grad()
def test_what_is_kept_of_several_is_what_is_kept_of_each(nano):
    one, other = photographs(2)
    both = remember(nano, [one, other])
    references = nano.wiring.references
    alone = gather(references, keep(nano, one))
    # Two at once are summed in another order.
    near = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(both["keys_1"][:, 0], alone["keys_1"][:, 0], **near)
    torch.testing.assert_close(2 * both["values_1"][:, 0], alone["values_1"][:, 0], **near)
    assert not both["values_1"][:, 2].any()
    assert remember(nano, [])["keys_1"].shape == references.shapes["keys_1"]


@pytest.mark.slow
@torch.no_grad()
def test_every_tile_sees_all_references(nano, kept):
    model = copy.deepcopy(nano)
    model.tiling = replace(model.tiling, tile=32, overlap=16)
    lr = torch.rand(1, 3, 96, 80, generator=torch.Generator().manual_seed(1))
    tiled = model(lr, images=kept)
    assert (tiled - model(lr)).abs().mean() > 0.001
    assert tiled.shape == (1, 3, 384, 320)


@pytest.mark.slow
def test_it_is_saved_and_loaded(nano, kept, tmp_path):
    step = adapter_pass()
    save_model(nano, tmp_path / "model.safetensors", OSEDiffSource(), [step])
    loaded = load_model(tmp_path)
    with torch.no_grad():
        wanted = nano(LR, images=kept)
        torch.testing.assert_close(loaded(LR, images=kept), wanted, rtol=0, atol=1e-5)
    again = with_adapter(_fresh(), loud=False)
    taken = adapter_pass(weights=str(tmp_path))
    taken.fit(again, FitContext(again))
    with torch.no_grad():
        torch.testing.assert_close(again(LR, images=kept), wanted, rtol=0, atol=1e-5)
    assert taken.data_key()


def _fresh() -> SRModel:
    source = OSEDiffSource()
    model = source.build()
    source.load(model)
    return model


def test_calibration_images_stand_in_for_references(nano):
    images = [torch.rand(1, 3, 32, 32) for _ in range(4)]
    given = as_values(nano, images)
    filled = [sum(bool(v["values_1"][0, k].any()) for k in range(3)) for v in given]
    assert filled == [1, 2, 3, 1]


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["compat", "full"])
def test_it_is_quantised(nano, kept, placement):
    model = copy.deepcopy(nano)
    Strip().convert(model)
    source = copy.deepcopy(model)
    step = parse_pass(
        {
            "pass": "quantize",
            "weights": 8,
            "activations": 8,
            "placement": placement,
            "method": "minmax",
            "components": ["reference_query", "denoiser"],
            "calibration": {"images": 4, "size": 32},
        },
        "test",
    )
    assert isinstance(step, Quantize)
    step.convert(model)
    step.fit(model, FitContext(source, before=lambda _: source))
    model.eval()
    with torch.no_grad():
        wanted, found = (one(LR, images=kept) - one(LR) for one in (source, model))
    alike = torch.cosine_similarity(found.flatten(), wanted.flatten(), dim=0).item()
    assert alike > 0.5


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"levels": (1, 4)}, "levels has 4 and this UNet has 4 levels"),
        ({"size": 64, "levels": (0,)}, None),
    ],
)
def test_levels(keys, sentence):
    source = OSEDiffSource()
    if sentence is None:
        assert convert_all(source, [adapter_pass(**keys)]).wiring.kept == ("keys_0", "values_0")
        return
    with pytest.raises(UserError, match=sentence):
        convert_all(source, [adapter_pass(**keys)])


def test_mistakes_get_a_sentence(nano, kept):
    with pytest.raises(UserError, match="has references already"):
        adapter_pass().convert(copy.deepcopy(nano))
    with pytest.raises(UserError, match="places for 3"):
        remember(nano, photographs(4))
    with pytest.raises(UserError, match="cut it"):
        keep(nano, torch.rand(1, 3, 128, 64))
    with pytest.raises(UserError, match="should be"):
        nano(LR, images={**kept, "keys_1": kept["keys_1"][:, :1]})
    with pytest.raises(UserError, match="missing"):
        nano(LR, images={"keys_1": kept["keys_1"]})
    with pytest.raises(UserError, match="takes no references"):
        remember(_fresh(), photographs(1))
    with pytest.raises(UserError, match="must rise"):
        parse_pass({"pass": "reference_adapter", "levels": [2, 1]}, "test")
    with pytest.raises(UserError, match="does not exist"):
        adapter_pass(weights="nowhere").fit(copy.deepcopy(nano), FitContext(nano))
