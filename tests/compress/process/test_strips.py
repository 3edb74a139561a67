"""Images in strips.

Whatever their height, the corrections are those of the whole image, and today's formulas.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.tiny_model import tiny

from compress.core.errors import UserError
from compress.model.sr_model import Tiling
from compress.process import matching, strips
from compress.process.colour import FIXES
from compress.process.padding import pad, surround
from compress.process.resample import SCALE, upsample
from compress.process.tiling import Cut, gaussian_weights, tile_starts, tiled, tiled_rows


def blur(image: torch.Tensor, dilation: int) -> torch.Tensor:
    """As StableSR's code has it: a dilated 3x3 convolution of each channel."""
    taps = torch.tensor([1.0, 2.0, 1.0], dtype=image.dtype) / 4.0
    kernel = torch.outer(taps, taps).expand(3, 1, 3, 3)
    return F.conv2d(
        F.pad(image, (dilation,) * 4, mode="replicate"), kernel, groups=3, dilation=dilation
    )


def low(image: torch.Tensor) -> torch.Tensor:
    for level in range(5):
        image = blur(image, 2**level)
    return image


def matched(image: torch.Tensor, like: torch.Tensor, eps: float) -> torch.Tensor:
    mean, std = image.mean((2, 3), keepdim=True), (image.var((2, 3), keepdim=True) + eps).sqrt()
    wanted, spread = like.mean((2, 3), keepdim=True), (like.var((2, 3), keepdim=True) + eps).sqrt()
    return (image - mean) / std * spread + wanted


TO_YCBCR = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]],
    dtype=torch.float64,
)


def chroma_of(image: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """There and back by JFIF's matrix."""
    mixed = torch.einsum("yc,bchw->byhw", TO_YCBCR, like)
    mixed[:, :1] = torch.einsum("yc,bchw->byhw", TO_YCBCR[:1], image)
    return torch.einsum("cy,byhw->bchw", torch.linalg.inv(TO_YCBCR), mixed)


FORMULAS = {
    "adain": lambda image, lr: matched(image.clamp(0, 1), upsample(lr), 1e-5),
    "wavelet": lambda image, lr: image.clamp(0, 1) - low(image.clamp(0, 1)) + low(upsample(lr)),
    "mean_std": lambda image, lr: matched(image, lr, 0.0),
    "ycbcr": lambda image, lr: chroma_of(image.clamp(0, 1), upsample(lr)),
    "none": lambda image, lr: image,
}


def whole(parts) -> np.ndarray:
    """[C, H, W] of strips, each of which is valid until the next only."""
    return np.concatenate([part.copy() for part in parts], axis=1)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("size", [(16, 16), (17, 40), (70, 33)])
def test_any_strips_give_the_whole_image(name, size, monkeypatch):
    torch.manual_seed(0)
    lr, image = torch.rand(1, 3, *size), torch.rand(1, 3, 4 * size[0], 4 * size[1]) * 1.4 - 0.2
    expected = FORMULAS[name](image.double(), lr.double()).float()
    assert (FIXES[name](image, lr) - expected).abs().max() <= 1e-5
    for rows, limit in ((1, 0), (5, 2**28), (31, 0), (62, 2**28), (1000, 0)):
        monkeypatch.setattr(matching, "IN_MEMORY", limit)
        parts = [image[0, :, y : y + rows].numpy() for y in range(0, image.shape[2], rows)]
        found = whole(strips.corrected(iter(parts), lr[0].numpy(), name, SCALE))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[0].numpy(), atol=1e-5)


def test_corrections_are_the_models():
    assert tuple(FIXES) == strips.CORRECTIONS
    with pytest.raises(ValueError, match="adain, wavelet, mean_std, ycbcr, none"):
        strips.corrected([], np.zeros((3, 16, 16), np.float32), "adian", SCALE)


def test_flat_channels_take_the_mean():
    lr, flat = (
        np.random.default_rng(0).random((3, 16, 16), dtype=np.float32),
        np.full((3, 64, 64), 0.3, np.float32),
    )
    found = whole(strips.corrected([flat], lr, "mean_std", SCALE))
    np.testing.assert_allclose(
        found, np.broadcast_to(lr.mean((1, 2), keepdims=True), found.shape), atol=1e-6
    )


@pytest.mark.parametrize("rows", [(0, 1), (0, 64), (3, 9), (30, 64), (63, 64)])
def test_rows_of_the_enlargement(rows):
    lr = torch.rand(1, 3, 16, 21)
    found = strips.enlarge(lr[0].numpy(), SCALE, *rows)
    np.testing.assert_allclose(found, upsample(lr)[0, :, rows[0] : rows[1]].numpy(), atol=2e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_values_that_are_not_finite(name):
    image = np.zeros((3, 64, 64), np.float32)
    image[1, 40, 40] = np.inf
    with pytest.raises(strips.StripError, match="not finite"):
        strips.to_bytes(
            strips.corrected([image], np.zeros((3, 16, 16), np.float32), name, SCALE), 64, 64
        )


def test_a_full_disk_is_told(monkeypatch):
    class Full:
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(matching, "IN_MEMORY", 0)
    monkeypatch.setattr(matching.tempfile, "TemporaryFile", lambda **options: Full())
    image = np.zeros((3, 64, 64), np.float32)
    with pytest.raises(strips.StripError, match=r"No space left on device.*TMPDIR"):
        strips.to_bytes(
            strips.corrected([image], np.zeros((3, 16, 16), np.float32), "adain", SCALE), 64, 64
        )


def test_shares_sum_to_one():
    for starts, side, margin in (
        ([0], 24, 0),
        ([0, 16, 40], 24, 0),
        ([0, 5, 9, 30], 64, 7),
        ([0, 6], 8, 500),
    ):
        total = np.zeros(starts[-1] + side + 2 * margin)
        places = strips.spans(starts, side, margin)
        assert places[0][0] == 0
        assert places[-1][1] == len(total)
        assert places[1:] == [(s + margin, s + margin + side) for s in starts[1:-1]] + places[
            -1:
        ] * (len(starts) > 1)
        for (first, last), share in zip(
            places, strips.shares(starts, side, side / 2, margin), strict=True
        ):
            assert (share > 0).all()
            total[first:last] += share
        np.testing.assert_allclose(total, 1, atol=1e-15)


@pytest.mark.parametrize("size", [(24, 60), (40, 53)])
@pytest.mark.parametrize("margin", [0, 4, 12])
def test_a_margin_changes_no_tile_inside(size, margin):
    """The grid is that of the map without its margin, and what is done pixel by pixel leaves no
    trace."""
    x, seen = torch.rand(1, 2, *(s + 2 * margin for s in size), dtype=torch.float64), []

    def repeated(t: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(t.shape[-2:]))
        return F.interpolate(t, scale_factor=4)

    torch.testing.assert_close(
        tiled(repeated, x, 20, 8, 4, margin=margin),
        F.interpolate(x, scale_factor=4),
        rtol=0,
        atol=1e-13,
    )
    plain, seen = seen, []
    tiled(repeated, x[..., margin : margin + size[0], margin : margin + size[1]], 20, 8, 4)
    assert len(plain) == len(seen)
    assert set(seen) == {(20, 20)}
    assert plain[0] == (20 + margin, 20 + margin)
    assert size[0] == 24 or (20, 20) in plain


def blended(function, x: torch.Tensor, tile: int, overlap: int, scale: float) -> torch.Tensor:
    """The sum of weighted tiles over the sum of weights, over whole maps."""
    total = torch.zeros(
        *x.shape[:2], *(round(s * scale) for s in x.shape[-2:]), dtype=torch.float64
    )
    weights = torch.zeros_like(total[:1, :1])
    for top in tile_starts(x.shape[-2], tile, overlap):
        for left in tile_starts(x.shape[-1], tile, overlap):
            piece = function(x[..., top : top + tile, left : left + tile])
            h, w = piece.shape[-2:]
            area = (
                ...,
                slice(round(top * scale), round(top * scale) + h),
                slice(round(left * scale), round(left * scale) + w),
            )
            total[area] += piece * gaussian_weights(h, w)
            weights[area] += gaussian_weights(h, w)
    return total / weights


@pytest.mark.parametrize("size", [(9, 30), (40, 17), (40, 53)])
@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 1e-6), (torch.float64, 1e-13), (torch.float16, 1e-3)]
)
def test_tiles_are_blended_as_over_whole_maps(size, dtype, atol):
    """In float16 the weights of the outermost pixels are 0, and their quotients were NaN."""
    x = torch.rand(2, 3, *size, dtype=torch.float64).to(dtype)

    def function(t: torch.Tensor) -> torch.Tensor:  # depends on the tile
        return F.interpolate(t * 0.5 + t.mean((2, 3), keepdim=True) * 0.5, scale_factor=4)

    found = tiled(function, x, 12, 4, 4)
    assert found.dtype == dtype
    assert found.isfinite().all()
    torch.testing.assert_close(
        found.double(), blended(lambda t: function(t).double(), x, 12, 4, 4), rtol=0, atol=atol
    )
    rows = list(tiled_rows(function, x, Cut(12, 4), 4))
    assert torch.equal(torch.cat(rows, dim=2), found)
    assert (len(rows) > 1) == (size[0] > 12)


@pytest.mark.parametrize("size", [(16, 16), (41, 23)])
def test_surround_reflects_on_all_sides(size):
    x = torch.rand(1, 3, *size)
    found = surround(x, 12, 16)
    for side, n in zip(found.shape[-2:], size, strict=True):
        assert side % 16 == 0
        assert side >= n + 24
    assert torch.equal(found[..., 12 : 12 + size[0], 12 : 12 + size[1]], x)
    mirrored = F.pad(x, (12, 12, 12, 12), mode="reflect")
    assert torch.equal(found[..., : mirrored.shape[-2], : mirrored.shape[-1]], mirrored)
    assert torch.equal(surround(x, 0, 16), pad(x, -size[1] % 16, -size[0] % 16))
    assert surround(x, 100, 64).shape[-2:] == (256, 256)  # more than one reflection


@pytest.mark.parametrize(
    "tiling", [Tiling(), Tiling(margin=16), Tiling(16, 8, "wavelet"), Tiling(16, 8, margin=16)]
)
@pytest.mark.parametrize("fix", FIXES)
@torch.no_grad()
def test_bytes_are_those_of_the_float_image(tiling, fix):
    model = tiny()
    model.tiling, model.colour_fix = tiling, fix
    lr = torch.rand(1, 3, 50, 34)
    pixels = model.upscale_bytes(lr)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (200, 136, 3)
    exact = model(lr)[0].permute(1, 2, 0).numpy().astype(np.float64) * 255
    assert np.abs(pixels - exact).max() <= 0.5 + 1e-5 * 255


@torch.no_grad()
def test_an_image_that_fits_a_tile_stays_whole_with_its_margin(random_nano):
    random_nano.tiling, random_nano.colour_fix = Tiling(16, 8, margin=16), "none"
    sizes = []
    handle = random_nano.denoiser.register_forward_hook(
        lambda m, args, out: sizes.append(tuple(args[0].shape[-2:]))
    )
    small, large = random_nano(torch.rand(1, 3, 32, 30)), random_nano(torch.rand(1, 3, 33, 30))
    handle.remove()
    assert sizes[0] == (32, 32)
    assert sizes[1:] == [
        (24, 32),
        (24, 32),
    ]
    assert small.shape == (1, 3, 128, 120)
    assert large.shape == (1, 3, 132, 120)


@torch.no_grad()
def test_the_margin_is_the_crop_of_the_surrounded(random_nano):
    random_nano.tiling, random_nano.colour_fix = Tiling(margin=16), "none"
    lr = torch.rand(1, 3, 20, 28)
    whole = random_nano.network(surround(lr, 16, 16)).clamp(0, 1)
    torch.testing.assert_close(random_nano(lr), whole[..., 64:144, 64:176], rtol=0, atol=1e-6)


def test_bytes_refuse(random_nano):
    with pytest.raises(UserError, match="too small"):
        random_nano.upscale_bytes(torch.rand(1, 3, 15, 64))
    with pytest.raises(UserError, match="a batch of 2"):
        random_nano.upscale_bytes(torch.rand(2, 3, 16, 16))
    random_nano.decoder.register_forward_hook(lambda m, args, out: out * float("nan"))
    with pytest.raises(UserError, match="not finite"):
        random_nano.upscale_bytes(torch.rand(1, 3, 16, 16))
