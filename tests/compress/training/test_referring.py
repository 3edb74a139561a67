"""Training the reference adapter: what learns, what stays, what of a batch goes where."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.referring import adapter_pass, photographs, referring_nano

from compress.core.errors import UserError
from compress.families.osediff import OSEDiffSource
from compress.model.calls import LR
from compress.model.passes import FitContext
from compress.model.references import remember
from compress.recipe.checkpoint import parse_pass
from compress.training.referring import kept_of_each


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for index in range(2):
        pixels = random.integers(0, 256, (12, 16, 3), np.uint8)
        Image.fromarray(pixels).resize((256, 192)).save(path / f"{index}.png")
    return path


@pytest.mark.slow
def test_each_image_of_a_batch_sees_its_own_references():
    model = referring_nano(references=2)
    lr = torch.rand(2, 3, 32, 32)
    one, other = photographs(2, seed=1), photographs(2, seed=2)
    batch = torch.stack([torch.cat(one), torch.cat(other)])
    with torch.no_grad():
        found = model.image_of({LR: lr, **kept_of_each(model, batch)})
        for index, own in enumerate((one, other)):
            alone = model.network(lr[index : index + 1], remember(model, own))
            # A batch is summed in another order; a tenth of one of 255 levels.
            torch.testing.assert_close(found[index : index + 1], alone, rtol=0, atol=4e-4)


@pytest.mark.slow
def test_only_the_adapter_learns(folder, tmp_path):
    source = OSEDiffSource()
    model = source.build()
    source.load(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step = adapter_pass(
        steps=3, batch=1, crop=64, lr=1e-3, ema=0.0, data={"folders": [str(folder)]}
    )
    step.convert(model)
    figures = step.fit(model, FitContext(model, workdir=tmp_path))
    assert figures["steps"] == 3
    assert figures["images"] == 2
    after = model.state_dict()
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    changed = [part.out.weight.any().item() for part in model.reference_query.attentions]
    assert changed == [True] * 3
    for name, value in before.items():
        if name.startswith("encoder."):
            assert torch.equal(after[f"reference_encoder.{name}"], value)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert step.data_key()


def test_mistakes_get_a_sentence(tmp_path):
    with pytest.raises(UserError, match="needs lpips_weights"):
        parse_pass({"pass": "reference_adapter", "losses": {"lpips": 1.0}}, "test")
    with pytest.raises(UserError, match="`weights` of a trained adapter or `steps`"):
        parse_pass({"pass": "reference_adapter", "weights": "a", "steps": 1}, "test")
