"""Teachers of a training: what each kind gives, what is kept of it, and what is said of one that
cannot be.
"""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.foreign import compact

from compress.core.errors import UserError
from compress.data.folder import RandomCrops
from compress.data.pairs import PairCrops, find_pairs, is_pairs, pairs_hash
from compress.data.pool import PoolPlan, TaughtCrops, TeacherPool, cut_pair, draw
from compress.data.presets import PRESETS
from compress.families.osediff import OSEDiffSource
from compress.process.resample import upsample
from compress.recipe.checkpoint import load_model, save_model
from compress.stages.taught import Photographs, Taught, TeacherConfig
from compress.stages.teacher import load_teacher
from compress.training.initialise import initialise


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name in ("a", "b"):
        pixels = np.random.default_rng(ord(name)).integers(0, 256, (160, 176, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return sorted(folder.iterdir())


def plan(**changes):
    return PoolPlan(
        **{
            "teacher": "t",
            "images": ("a", "b"),
            "degradation": PRESETS["mild"],
            "side": 64,
            "seed": 0,
        }
        | changes
    )


class Counted:
    """A teacher that enlarges and counts its calls."""

    def __init__(self):
        self.loaded = self.calls = 0

    def load(self):
        self.loaded += 1
        return self

    def __call__(self, lr):
        self.calls += 1
        return upsample(lr).clamp(0, 1)


def pool(root, photographs, teacher, size=6, **changes):
    return TeacherPool(
        root, plan(**changes), size, RandomCrops(photographs, 64, size, 0), teacher.load
    )


def test_a_full_pool_needs_no_teacher(tmp_path, photographs):
    first, second = Counted(), Counted()
    made = pool(tmp_path / "pool", photographs, first)
    pairs = [tuple(np.array(x) for x in made[k]) for k in range(6)]
    assert (first.loaded, first.calls, made.computed) == (1, 6, 6)
    assert pairs[0][0].shape == (16, 16, 3)
    assert pairs[0][1].shape == (64, 64, 3)
    # The target is the teacher's output for that very image, rounded to 8 bits.
    lr = torch.from_numpy(pairs[3][0]).permute(2, 0, 1)[None] / 255
    wanted = upsample(lr).clamp(0, 1)[0].permute(1, 2, 0).mul(255).round().byte().numpy()
    assert np.array_equal(pairs[3][1], wanted)
    again = pool(tmp_path / "pool", photographs, second)
    for k in range(6):
        assert all(np.array_equal(x, y) for x, y in zip(pairs[k], again[k], strict=True))
    assert (second.loaded, second.calls, again.computed) == (0, 0, 0)


def test_pairs_are_a_function_of_the_plan(tmp_path, photographs):
    made, other = (pool(tmp_path / name, photographs, Counted()) for name in ("one", "two"))
    made[0], made[1]  # another order
    assert np.array_equal(made[2][1], other[2][1])
    assert np.array_equal(made[2][0], other[2][0])
    keys = {
        p.key()
        for p in (
            plan(),
            plan(teacher="u"),
            plan(images=("b", "a")),
            plan(seed=1),
            plan(side=128),
            plan(degradation=PRESETS["realesrgan"]),
        )
    }
    assert len(keys) == 6
    assert plan().key() == plan().key()
    assert not np.array_equal(
        pool(tmp_path / "one", photographs, Counted(), seed=1)[2][0], made[2][0]
    )


@pytest.mark.parametrize("file", ["lr.bin", "target.bin", "sums.bin"])
def test_a_damaged_pair_is_made_again(tmp_path, photographs, caplog, file):
    made = pool(tmp_path, photographs, Counted())
    wanted = [np.array(made[k][1]) for k in range(6)]
    with (made.folder / file).open("r+b") as stream:
        stream.seek((made.folder / file).stat().st_size // 6 * 2 + 5)
        byte = stream.read(1)
        stream.seek(-1, 1)
        stream.write(bytes([byte[0] ^ 1]))
    teacher = Counted()
    again = pool(tmp_path, photographs, teacher)
    assert all(np.array_equal(again[k][1], wanted[k]) for k in range(6))
    assert teacher.calls == 1
    assert "pair 2 is damaged; it is made again" in caplog.text


def test_a_full_disk_is_an_error_and_no_signal(tmp_path, photographs):
    """A limit on the size of files stands for it."""
    resource = pytest.importorskip("resource")
    made = pool(tmp_path, photographs, Counted())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 16 * 16, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            made[1]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert np.array(made[1][0]).any()
    assert made.sums[1].any()


def test_a_pool_may_grow(tmp_path, photographs):
    small = pool(tmp_path, photographs, Counted(), size=2)
    kept = [np.array(small[k][0]) for k in range(2)]
    teacher = Counted()
    large = pool(tmp_path, photographs, teacher, size=5)
    assert all(np.array_equal(large[k][0], kept[k]) for k in range(2))
    assert teacher.calls == 0
    large[4]
    assert teacher.calls == 1
    assert len(pool(tmp_path, photographs, Counted(), size=3).lr) == 3
    assert large.lr[4].any()


def test_every_pair_is_drawn_when_its_turn_comes():
    taken = [draw(i, 5, 0.25, np.random.default_rng(i)) for i in range(60)]
    assert [taken[i] for i in (0, 4, 8, 12, 16)] == [0, 1, 2, 3, 4]
    assert all(k <= i // 4 for i, k in enumerate(taken[:20]))
    assert set(taken[20:]) == {0, 1, 2, 3, 4}
    assert [draw(i, 4, 1.0, np.random.default_rng(i)) for i in range(4)] == [0, 1, 2, 3]


def test_a_piece_is_of_one_place_in_both_images():
    lr = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    target = lr.repeat(4, 0).repeat(4, 1)
    seen = set()
    for seed in range(30):
        small, large = cut_pair(lr, target, 32, np.random.default_rng(seed))
        assert small.shape == (3, 8, 8)
        assert large.shape == (3, 32, 32)
        assert torch.equal(small.repeat_interleave(4, 1).repeat_interleave(4, 2), large)
        seen.add(small.numpy().tobytes())
    assert len(seen) > 20


def test_samples_go_on_where_the_stage_before_ended(tmp_path, photographs):
    made = pool(tmp_path, photographs, Counted())
    whole = TaughtCrops(made, 32, 12, seed=3, fresh=0.5)
    rest = TaughtCrops(made, 32, 4, seed=3, fresh=0.5, offset=8)
    assert all(
        torch.equal(x, y) for i in range(4) for x, y in zip(whole[8 + i], rest[i], strict=True)
    )
    assert len(rest) == 4
    assert not torch.equal(whole[0][0], whole[8][0])


@pytest.fixture
def own(tmp_path):
    source = OSEDiffSource(
        unet_channels=(16, 16, 16, 16),
        vae_channels=(8, 8, 16, 16),
        encoder_channels=(8, 8, 16, 16),
        time_channels=32,
    )
    path = tmp_path / "own.safetensors"
    save_model(initialise(source.build(), 0), path, source, [])
    return path


@pytest.mark.slow
def test_our_own_model_teaches(own):
    lr = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = load_model(own)(lr)
    torch.testing.assert_close(load_teacher(own)(lr), wanted)
    folder = own.parent / "run"
    folder.mkdir()
    own.rename(folder / "model.safetensors")
    torch.testing.assert_close(load_teacher(folder)(lr), wanted)


def test_a_file_that_spandrel_reads_teaches(tmp_path):
    pytest.importorskip("spandrel")
    save_file(compact(), tmp_path / "other.safetensors")
    lr = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    image = load_teacher(tmp_path / "other.safetensors")(lr)
    x, w = lr, compact()
    for i in (0, 2):
        x = torch.nn.functional.conv2d(x, w[f"body.{i}.weight"], padding=1)
        x = torch.where(x > 0, x, 0.2 * x)
    x = torch.nn.functional.conv2d(x, w["body.4.weight"], padding=1)
    wanted = torch.nn.functional.pixel_shuffle(x, 4) + lr.repeat_interleave(4, 2).repeat_interleave(
        4, 3
    )
    torch.testing.assert_close(image, wanted.clamp(0, 1), rtol=1e-4, atol=1e-4)
    save_file(compact(scale=2), tmp_path / "double.safetensors")
    with pytest.raises(UserError, match=r"scale 2.*RGB image 4 times"):
        load_teacher(tmp_path / "double.safetensors")
    save_file({"what": torch.zeros(2)}, tmp_path / "what.safetensors")
    with pytest.raises(UserError, match="spandrel cannot read"):
        load_teacher(tmp_path / "what.safetensors")


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    save_file(compact(), tmp_path / "other.safetensors")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(UserError, match=r"pip install 'diffusion-sr-compress\[spandrel\]'"):
        load_teacher(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="is no teacher; give a run directory"):
        load_teacher(tmp_path / "none.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_teacher(tmp_path / "broken.safetensors")


@pytest.fixture
def pairs(tmp_path):
    folder = tmp_path / "pairs"
    for name in ("x", "y"):
        pixels = np.random.default_rng(ord(name)).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        for part, image in (("LR", pixels), ("target", pixels.repeat(4, 0).repeat(4, 1))):
            (folder / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / part / f"{name}.png")
    return folder


def test_a_folder_of_pairs_teaches(pairs):
    taught = Taught(TeacherConfig(path=str(pairs)), Photographs([], PRESETS["mild"]), 64, seed=0)
    samples = taught.samples(32, 5, 0, 0)
    assert isinstance(samples, PairCrops)
    assert len(samples) == 5
    assert taught.pool is None
    for i in range(5):
        small, large = samples[i]
        assert torch.equal(small.repeat_interleave(4, 1).repeat_interleave(4, 2), large)
    (pairs / "target").rename(pairs / "HR")
    assert is_pairs(pairs)
    assert [p[1].parent.name for p in find_pairs(pairs)] == ["HR", "HR"]


def test_pairs_are_known_by_their_content(pairs):
    before = pairs_hash(find_pairs(pairs))
    moved = pairs.rename(pairs.with_name("moved"))
    assert pairs_hash(find_pairs(moved)) == before
    file = moved / "target" / "x.png"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # of the same name and size
    file.write_bytes(content)
    assert pairs_hash(find_pairs(moved)) != before


def test_pairs_that_do_not_fit_are_refused(pairs):
    with pytest.raises(UserError, match="smaller than the crop of 128"):
        PairCrops(find_pairs(pairs), 128, 1, 0)[0]
    Image.new("RGB", (40, 40)).save(pairs / "target" / "x.png")
    Image.new("RGB", (40, 40)).save(pairs / "target" / "y.png")
    with pytest.raises(UserError, match="is not 4 times the 24x20"):
        PairCrops(find_pairs(pairs), 32, 1, 0)[0]
    (pairs / "LR" / "x.png").unlink()
    with pytest.raises(UserError, match="has no image 'x'"):
        find_pairs(pairs)


@pytest.mark.slow
def test_a_pool_is_made_for_a_network(own, photographs, tmp_path):
    config = TeacherConfig(path=str(own), cache=str(tmp_path / "cache"), pool=4, margin=64)
    taught = Taught(config, Photographs(photographs, PRESETS["mild"]), 64, seed=0)
    small, large = taught.samples(64, 3, 0, 0)[0]
    assert small.shape == (3, 16, 16)
    assert large.shape == (3, 64, 64)
    assert taught.pool.computed == 1
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [taught.pool.plan.key()]
    assert TeacherConfig.model_validate("a.pth").path == "a.pth"
