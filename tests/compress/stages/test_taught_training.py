"""Training from a teacher: the start that passes pixels through, the frequency loss, resumed runs,
weights on the way.
"""

import json
import math

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from skimage import data
from support.killed import killed

from compress import train
from compress.core import marks
from compress.core.errors import UserError
from compress.data.degradation import degrade
from compress.data.presets import PRESETS
from compress.families.osediff import OSEDiffSource
from compress.families.tsdsr import TSDSRSource
from compress.recipe.checkpoint import load_model, save_model
from compress.stages.images import Setting
from compress.stages.pass_through import pass_pixels
from compress.stages.pixel_blocks import PixelBlocks, pixel_blocks
from compress.training import losses, session
from compress.training.ema import EMA
from compress.training.initialise import initialise

SOURCE = {
    "family": "osediff",
    "size": "nano",
    "latent_channels": 12,
    "unet_channels": [16, 16, 16, 16],
    "vae_channels": [8, 8, 16, 16],
    "encoder_channels": [8, 8, 16, 32],
    "time_channels": 32,
}
FROM_TEACHER = {"l1": 1.0, "frequency": 1.0}
STAGES = [
    {
        "stage": "pixel_blocks",
        "steps": 2,
        "batch": 2,
        "crop": 64,
        "lr": 1e-3,
        "losses": FROM_TEACHER,
    },
    {
        "stage": "end_to_end",
        "steps": 4,
        "batch": 2,
        "crop": 64,
        "lr": 1e-3,
        "losses": FROM_TEACHER,
        "encoder": "frozen",
    },
]


def nano(**changes):
    return initialise(OSEDiffSource(**SOURCE | changes).build(), 0)


def setting(model, weights):
    return Setting(model, weights, {}, PRESETS["mild"], (0,))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of photographs and a teacher, which is another model of ours."""
    folder = tmp_path_factory.mktemp("taught")
    (folder / "photographs").mkdir()
    for name in ("astronaut", "coffee"):
        Image.fromarray(getattr(data, name)()[:256, :256]).save(
            folder / "photographs" / f"{name}.png"
        )
    source = OSEDiffSource(**SOURCE)
    save_model(nano(), folder / "teacher.safetensors", source, [])
    return folder


@pytest.fixture
def recipe(files, tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "tiny",
                "source": SOURCE,
                "data": {"folders": [str(files / "photographs")], "degradation": "mixed"},
                "teacher": {
                    "path": str(files / "teacher.safetensors"),
                    "cache": str(files / "cache"),
                    "pool": 4,
                    "fresh": 0.25,
                },
                "stages": STAGES,
            }
        )
    )
    return path


def call(*arguments):
    with pytest.raises(SystemExit) as exit:
        train.main([str(a) for a in arguments])
    return exit.value.code


@pytest.mark.parametrize("text", ["", "{", "[]", '{"steps": "x", "seconds": 1}'])
def test_a_damaged_record_is_one_sentence(recipe, tmp_path, capsys, text):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "0_pixel_blocks.safetensors").write_bytes(b"")
    (tmp_path / "w" / "0_pixel_blocks.json").write_text(text)
    arguments = (recipe, "--workdir", tmp_path / "w", "--export-checkpoint")
    assert call(*arguments, tmp_path / "out.safetensors") == 2
    assert "the record of a finished stage" in capsys.readouterr().err


def test_frequency_by_hand():
    random = np.random.default_rng(0)
    a, b = random.random((2, 3, 8, 6)), random.random((2, 3, 8, 6))
    rows, columns = np.arange(8)[:, None], np.arange(6)[:, None]
    down = np.exp(-2j * np.pi * rows * rows.T / 8)
    across = np.exp(-2j * np.pi * columns * columns.T / 6)
    transform = down @ (a - b) @ across / np.sqrt(48)
    half = transform[..., :4]
    wanted = (np.abs(half.real) + np.abs(half.imag)).mean() / 2
    found = losses.frequency(torch.from_numpy(a).float(), torch.from_numpy(b).float())
    assert found.item() == pytest.approx(wanted, rel=1e-5)
    # The same error on a larger image is the same loss: of white noise, whatever the size.
    small, large = (
        losses.frequency(
            torch.randn(1, 3, n, n, generator=torch.Generator().manual_seed(1)),
            torch.zeros(1, 3, n, n),
        ).item()
        for n in (64, 256)
    )
    assert small == pytest.approx(large, rel=0.03)


def test_texture_by_hand():
    """Of one cosine wave: its strength is its size, wherever its crests are."""
    rows = torch.arange(64) + 0.5
    wave = torch.cos(torch.pi / 8 * 4 * rows)[:, None].expand(64, 64)  # order 4 of 8
    image = (0.5 + 0.2 * wave).expand(1, 3, 64, 64)
    flat = torch.full_like(image, 0.5)
    # A block holds 8 columns and 8 rows: norm 8 * sqrt(1 / 2) for the wave of size 1.
    strength = 0.2 * 8 * math.sqrt(0.5)
    rest = math.sqrt(losses.FAINT)  # the strength of nothing
    wanted = (math.sqrt(strength**2 + losses.FAINT) - rest) / 63  # one of 63 waves
    assert losses.texture(image, flat).item() == pytest.approx(wanted, rel=1e-3)
    shifted = (0.5 - 0.2 * wave).expand(1, 3, 64, 64)
    assert losses.texture(image, shifted).item() == pytest.approx(0, abs=1e-6)
    filters = losses.cosines(8).flatten(1)
    torch.testing.assert_close(filters @ filters.T, torch.eye(63), atol=1e-6, rtol=0)


def smooth(count, side, seed=0):
    """Images [count, 3, side, side] in [0, 1] without the finest detail."""
    coarse = torch.rand(
        count, 3, side // 5, side // 5, generator=torch.Generator().manual_seed(seed)
    )
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)


@torch.no_grad()
def test_the_encoder_passes_pixels_through():
    images, model = smooth(6, 64), nano()
    error = pass_pixels(model.encoder, images[:4], model.process.signal)
    emitted = model.encoder(images[4:]) / model.process.signal
    assert emitted.shape == (2, 12, 32, 32)
    assert error < 0.02
    inside = (emitted - pixel_blocks(images[4:]))[..., 1:-1, 1:-1]
    assert inside.square().mean().sqrt() < 2 * error + 0.005
    # Channel 4 * colour + 2 * row + column.
    assert torch.equal(pixel_blocks(images)[:, 4 * 2 + 2 * 1 + 0], images[:, 2, 1::2, 0::2] * 2 - 1)


@torch.no_grad()
def test_the_stage_starts_from_the_pixels():
    model, clean = nano(), smooth(4, 64)
    stage = PixelBlocks(setting(model, {"l1": 1.0, "blocks": 1.0}), clean)
    lr, target = smooth(2, 32, 1), torch.rand(2, 3, 128, 128)
    image, terms = stage([lr, target], 0)
    assert image.shape == target.shape
    assert set(terms) == {"l1", "blocks"}
    assert terms["blocks"] < 0.1
    torch.testing.assert_close(terms["l1"], (image - target).abs().mean())
    # The decoder sees the target's own reduction, not the low-resolution image.
    assert torch.equal(image, stage([torch.rand(2, 3, 32, 32), target], 0)[0])
    # An epsilon of 0 leaves the latent alone.
    torch.testing.assert_close(
        model.clean_latent(model.encoder(lr)), model.encoder(lr) / model.process.signal
    )
    assert stage.trained == ("encoder", "decoder")
    assert PixelBlocks(setting(nano(), {"l1": 1.0}), clean).trained == ("decoder",)


@torch.no_grad()
def test_the_latent_of_a_velocity_has_the_scale_of_its_source():
    widths = {key: SOURCE[key] for key in ("latent_channels", "vae_channels", "encoder_channels")}
    source = TSDSRSource(size="nano", heads=2, blocks=2, latent_scale=3.0, **widths)
    model = initialise(source.build(), 0)
    stage = PixelBlocks(setting(model, {"l1": 1.0, "blocks": 1.0}), smooth(4, 64))
    assert stage.signal == stage.decoded == 3
    assert stage.passed_rms < 0.02
    lr, target = smooth(2, 32, 1), torch.rand(2, 3, 128, 128)
    image, terms = stage([lr, target], 0)
    assert terms["blocks"] < 0.1
    blocks = pixel_blocks(torch.nn.functional.avg_pool2d(target, 4))
    torch.testing.assert_close(image, model.decoder(3 * blocks))
    # A velocity of 0 leaves the latent alone.
    latent = model.encoder(lr)
    torch.testing.assert_close(model.process.restore(latent, torch.zeros_like), latent)


def test_sources_that_cannot_pass_pixels_are_told_why():
    clean = torch.rand(2, 3, 64, 64)
    with pytest.raises(UserError, match="needs 12 latent channels"):
        PixelBlocks(setting(nano(latent_channels=4), {"l1": 1.0}), clean)
    with pytest.raises(UserError, match="last of at least 32 channels"):
        PixelBlocks(setting(nano(encoder_channels=(8, 8, 16, 24)), {"l1": 1.0}), clean)


def test_mixed_degradation_takes_either_preset():
    hr = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    taken = set()
    for seed in range(12):
        lr = degrade(hr, PRESETS["mixed"], torch.Generator().manual_seed(seed))
        for name in ("mild", "realesrgan"):
            generator = torch.Generator().manual_seed(seed)
            torch.multinomial(torch.ones(2), 1, replacement=True, generator=generator)  # the choice
            if torch.equal(lr, degrade(hr, PRESETS[name], generator)):
                taken.add(name)
    assert taken == {"mild", "realesrgan"}


def test_a_killed_run_goes_on_and_its_weights_can_be_taken(
    recipe, files, tmp_path, monkeypatch, capsys
):
    assert call(recipe, "--workdir", tmp_path / "a", "-o", tmp_path / "a.safetensors") == 0
    record = json.loads((tmp_path / "a.json").read_text())
    assert len(record["teacher_hash"]) == 64
    assert record["recipe"]["teacher"]["path"] == "teacher.safetensors"
    assert 0 < record["stages"][0]["passed_rms"] < 0.1
    # The second run has all pairs.
    monkeypatch.setattr("compress.stages.taught.load_teacher", None)

    with monkeypatch.context() as patch:
        patch.setattr(session, "train", killed("1_end_to_end", 3, checkpoint_seconds=0))
        assert call(recipe, "--workdir", tmp_path / "b", "-o", tmp_path / "b.safetensors") == 130
    capsys.readouterr()
    assert (
        call(
            recipe, "--workdir", tmp_path / "b", "--export-checkpoint", tmp_path / "way.safetensors"
        )
        == 0
    )
    assert "way.safetensors: 1_end_to_end after 2 steps" in capsys.readouterr().out
    way = load_model(tmp_path / "way.safetensors")
    assert way(torch.rand(1, 3, 32, 32)).shape == (1, 3, 128, 128)
    assert (
        call(
            recipe, "--workdir", tmp_path / "b", "--export-checkpoint", tmp_path / "way.safetensors"
        )
        == 2
    )
    (tmp_path / "mine.json").write_text("mine")  # where the record would go
    for name in ("mine.safetensors", "new.json"):
        assert (
            call(recipe, "--workdir", tmp_path / "b", "--export-checkpoint", tmp_path / name) == 2
        )
        assert call(recipe, "--workdir", tmp_path / "c", "-o", tmp_path / name) == 2
    assert (tmp_path / "mine.json").read_text() == "mine"
    assert not (tmp_path / "c").exists()
    # Killed between the two renames of a checkpoint.
    checkpoint = tmp_path / "b" / "1_end_to_end.checkpoint"
    aside = tmp_path / "b" / f".{checkpoint.name}.0.old"
    aside.mkdir()
    marks.mark(aside, marks.SCRATCH)
    checkpoint.rename(aside / checkpoint.name)
    assert call(recipe, "--workdir", tmp_path / "b", "-o", tmp_path / "b.safetensors") == 0
    a, b = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert a.keys() == b.keys()
    assert max((a[k].float() - b[k].float()).abs().max().item() for k in a) <= 2e-3
    # The encoder was held still, the rest was not; what was taken on the way lies before the end.
    start = load_file(tmp_path / "a" / "0_pixel_blocks.safetensors")
    end, taken = (
        load_file(tmp_path / "a" / "1_end_to_end.safetensors"),
        load_file(tmp_path / "way.safetensors"),
    )
    for key in start:
        if key.startswith("encoder."):
            assert torch.equal(start[key], end[key])
    key = "decoder.decoder.conv_in.weight"
    moved = (end[key] - start[key]).abs().mean()
    assert moved > 0
    assert 0 < (taken[key].float() - start[key]).abs().mean() < 2 * moved


def test_averaged_weights_are_only_lent():
    parameter = torch.nn.Parameter(torch.tensor([1.0, 0.1]))
    ema = EMA([parameter], 0.9)
    with torch.no_grad():
        parameter.fill_(0.3)
    ema.update()
    with ema.in_place():
        inside = parameter.detach().clone()
    assert torch.equal(parameter, torch.full((2,), 0.3))
    assert torch.equal(inside, ema.shadow[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.folders=[]", "data.folders is empty"),
        ("teacher.path=no/such.pth", "no/such.pth is no teacher"),
        ("stages.1.losses.blocks=1.0", "has no loss 'blocks'"),
        ("stages.0.decoder=frozen", "cannot hold the decoder still"),
        ("stages.1.decoder=frozen stages.1.decoder_rate=0.5", "leave decoder_rate out"),
        ("source.latent_channels=4", "needs 12 latent channels"),
        ("source.time_channels=0", "greater than 0"),
    ],
)
def test_mistakes(recipe, change, said, capsys, tmp_path):
    assert call(recipe, *change.split(" "), "--workdir", tmp_path / "w") == 2
    assert said in capsys.readouterr().err
