"""Reading photographs: what is accepted, and the sentence for everything that is not."""

import numpy as np
import pytest
import torch
from PIL import Image

from compress.core.errors import UserError
from compress.core.image import check_image_tensor, list_images, read_image, to_uint8, write_image


def save(path, mode, size=(32, 24)):
    if mode == "I;16":
        Image.fromarray(np.full(size[::-1], 40000, np.uint16)).save(path)
    else:
        Image.new(mode, size, 120 if mode in ("L", "1") else None).save(path)
    return path


def test_round_trip(tmp_path):
    image = torch.rand(1, 3, 20, 33)
    write_image(image, tmp_path / "a.png")
    again = read_image(tmp_path / "a.png")
    assert again.shape == image.shape
    assert again.dtype == torch.float32
    assert (again - image).abs().max() <= 0.5 / 255 + 1e-6
    assert not list(tmp_path.glob(".*"))
    assert to_uint8(again).shape == (20, 33, 3)


@pytest.mark.parametrize(
    ("mode", "said"), [("L", "grayscale"), ("RGBA", "RGBA"), ("I;16", "16-bit"), ("P", "palette")]
)
def test_other_modes_are_refused_or_converted(tmp_path, mode, said):
    path = save(tmp_path / "a.png", mode)
    with pytest.raises(UserError, match=f"{said}.*--convert"):
        read_image(path)
    converted = read_image(path, convert=True)
    assert converted.shape == (1, 3, 24, 32)
    assert converted.min() >= 0
    assert converted.max() <= 1
    if mode == "I;16":
        assert converted.mean().item() == pytest.approx(40000 / 65535, abs=1 / 255)


def test_float_images(tmp_path):
    values = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    Image.fromarray(values).save(tmp_path / "unit.tif")
    assert read_image(tmp_path / "unit.tif", convert=True).mean().item() == pytest.approx(
        0.5, abs=0.01
    )
    values[3, 3] = np.nan
    Image.fromarray(values).save(tmp_path / "nan.tif")
    with pytest.raises(UserError, match=r"nan\.tif.*NaN"):
        read_image(tmp_path / "nan.tif", convert=True)


def test_damaged_files(tmp_path):
    whole = save(tmp_path / "whole.png", "RGB", (200, 200))
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"cut\.png.*truncated"):
        read_image(cut)
    (tmp_path / "empty.png").touch()
    with pytest.raises(UserError, match="empty"):
        read_image(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match="not an image"):
        read_image(tmp_path / "text.png")
    with pytest.raises(UserError, match="no such"):
        read_image(tmp_path / "none.png")
    with pytest.raises(UserError, match="10x40 pixels is too small"):
        read_image(save(tmp_path / "tiny.png", "RGB", (10, 40)))


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (1, 3, 40, 20)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.full((1, 3, 16, 16), torch.nan), "NaN"),
        (torch.full((1, 3, 16, 16), 2.0), r"span \[2, 2\]"),
        (torch.zeros(3, 16, 16), "shape"),
        (torch.zeros(1, 3, 0, 16), "shape"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "dtype"),
    ],
)
def test_bad_tensors(value, said):
    with pytest.raises(UserError, match=said):
        check_image_tensor(value)


def test_list_images(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        list_images(tmp_path / "none")
    with pytest.raises(UserError, match="holds no image"):
        list_images(tmp_path)
