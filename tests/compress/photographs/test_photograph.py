"""Photographs as phones and scanners make them.

Depth, profile, orientation, alpha, grey, damage.
"""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from compress.photographs import header, reading, writing
from compress.photographs.problem import CannotWriteError, PhotographError, shown

SIDE = 24


def noise(channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (SIDE, SIDE + 8, channels) if channels > 1 else (SIDE, SIDE + 8)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def png(path, depth: int, colour: int, raw: bytes, size, extra: bytes = b""):
    """A PNG of any depth, which Pillow does not write.

    `raw` holds rows without their filter byte.
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    width, height = size
    row = len(raw) // height
    rows = b"".join(b"\0" + raw[i * row : (i + 1) * row] for i in range(height))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


def chunk_trns(*values: int) -> bytes:
    body = b"tRNS" + struct.pack(f">{len(values)}H", *values)
    return struct.pack(">I", 2 * len(values)) + body + struct.pack(">I", zlib.crc32(body))


def profile(gamma: float, red: tuple, green: tuple, blue: tuple) -> bytes:
    """A colour profile of three primaries (XYZ under D50) and one gamma."""

    def s15(values) -> bytes:
        return b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    parts = {
        b"rXYZ": b"XYZ \0\0\0\0" + s15(red),
        b"gXYZ": b"XYZ \0\0\0\0" + s15(green),
        b"bXYZ": b"XYZ \0\0\0\0" + s15(blue),
        b"wtpt": b"XYZ \0\0\0\0" + s15((0.9642, 1, 0.8249)),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    at, table, data = 128 + 4 + 12 * len(parts), b"", b""
    for name, content in parts.items():
        table += name + struct.pack(">II", at + len(data), len(content))
        data += content
    whole = struct.pack(">I", len(parts)) + table + data
    head = (
        struct.pack(">I", 128 + len(whole))
        + b"\0\0\0\0"
        + struct.pack(">I", 0x02400000)
        + b"mntrRGB XYZ "
        + struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
        + b"acsp"
        + bytes(28)
        + s15((0.9642, 1, 0.8249))
    )
    return head.ljust(128, b"\0") + whole


WIDE = profile(
    2.2, (0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)
)  # Adobe RGB


def grey_profile() -> bytes:
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, 256) + b"\0\0"  # gamma 1
    white = b"XYZ \0\0\0\0" + b"".join(
        struct.pack(">i", round(v * 65536)) for v in (0.9642, 1, 0.8249)
    )
    table = (
        b"kTRC"
        + struct.pack(">II", 156, len(curve))
        + b"wtpt"
        + struct.pack(">II", 156 + len(curve), len(white))
    )
    whole = struct.pack(">I", 2) + table + curve + white
    head = (
        struct.pack(">I", 128 + len(whole))
        + b"\0\0\0\0"
        + struct.pack(">I", 0x02400000)
        + b"mntrGRAYXYZ "
        + struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
        + b"acsp"
        + bytes(28)
        + white[8:]
    )
    return head.ljust(128, b"\0") + whole


def test_a_profile_is_applied_and_the_result_says_srgb(tmp_path):
    """A saturated green has other numbers in Adobe RGB than in sRGB."""
    Image.new("RGB", (SIDE, SIDE), (120, 200, 90)).save(tmp_path / "wide.png", icc_profile=WIDE)
    found = reading.read(tmp_path / "wide.png")
    to_srgb = ImageCms.profileToProfile(
        Image.open(tmp_path / "wide.png"),
        io.BytesIO(WIDE),
        ImageCms.createProfile("sRGB"),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )
    assert found.profiled
    assert np.abs(found.pixels.astype(int) - np.asarray(to_srgb).astype(int)).max() <= 1
    assert abs(int(found.pixels[0, 0, 0]) - 120) > 20
    assert (reading.read(tmp_path / "wide.png", managed=False).pixels == (120, 200, 90)).all()
    writing.save(found.pixels, found, tmp_path / "out.png", "png", None)
    with Image.open(tmp_path / "out.png") as result:
        named = ImageCms.ImageCmsProfile(io.BytesIO(result.info["icc_profile"]))
    assert "sRGB" in ImageCms.getProfileDescription(named)
    writing.save(found.pixels, found, tmp_path / "again.png", "png", None)
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def test_srgb_by_another_name_changes_no_value(tmp_path):
    values = noise()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(values).save(tmp_path / "a.png", icc_profile=srgb)
    found = reading.read(tmp_path / "a.png")
    assert found.profiled
    assert (found.pixels == values).all()


def test_a_grey_profile(tmp_path):
    Image.new("L", (SIDE, SIDE), 55).save(tmp_path / "linear.png", icc_profile=grey_profile())
    found = reading.read(tmp_path / "linear.png", convert=True)
    assert found.one_channel
    assert abs(int(found.pixels[0, 0, 0]) - 128) <= 2


@pytest.mark.parametrize(
    "icc", [b"no profile", WIDE[:200], WIDE[:36] + b"xxxx" + WIDE[40:], grey_profile()]
)
def test_a_profile_that_cannot_be_used_is_told(tmp_path, icc):
    values = noise()
    Image.fromarray(values).save(tmp_path / "a.png", icc_profile=icc)
    found = reading.read(tmp_path / "a.png")
    assert (found.pixels == values).all()
    assert not found.profiled
    assert len(found.notes) == 1
    assert "colour profile cannot be used" in found.notes[0]


def test_text_that_expands_without_end_is_refused(tmp_path):
    body = b"iCCP" + b"x\0\0" + zlib.compress(bytes(2**22))
    extra = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    png(tmp_path / "bomb.png", 8, 2, bytes(20 * 20 * 3), (20, 20), extra)
    with pytest.raises(PhotographError, match="expands past"):
        reading.read(tmp_path / "bomb.png")


@pytest.mark.parametrize("top", [300, 65535])
def test_sixteen_bits_by_the_depth_of_the_file(tmp_path, top):
    """A dark 16-bit scan, whose brightest pixel is far from white, stays dark."""
    values = np.linspace(0, top, 20 * 20).astype(np.uint16).reshape(20, 20)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        found = reading.read(tmp_path / name, convert=True)
        np.testing.assert_array_equal(found.pixels[..., 0], np.rint(values / 257).astype(np.uint8))
        assert found.one_channel
        assert "16 bits a channel were reduced to 8" in found.notes


def test_sixteen_bit_colour_is_seen(tmp_path):
    raw = np.random.default_rng(0).integers(0, 65536, (20, 20, 3)).astype(">u2")
    path = png(tmp_path / "a.png", 16, 2, raw.tobytes(), (20, 20))
    with pytest.raises(PhotographError, match=r"16-bit RGB.*--convert"):
        reading.read(path)
    found = reading.read(path, convert=True)
    assert np.abs(found.pixels.astype(float) - raw / 257).max() <= 1
    assert found.notes == ["16 bits a channel were reduced to 8"]


def test_twelve_bit_and_inverted_tiffs(tmp_path):
    values = np.full((20, 20), 65535, np.uint16)
    Image.fromarray(values).save(
        tmp_path / "a.tif", tiffinfo={262: 0}
    )  # white is zero, as in some scans
    assert (reading.read(tmp_path / "a.tif", convert=True).pixels == 0).all()
    with Image.open(tmp_path / "a.tif") as picture:
        assert header.bits(picture) == 16


@pytest.mark.parametrize(
    ("value", "said"),
    [(np.nan, "NaN"), (-np.inf, "NaN or infinite"), (-0.5, "white is 1"), (3.0, "white is 1")],
)
def test_floats_have_a_range(tmp_path, value, said):
    values = np.full((20, 20), 0.5, np.float32)
    Image.fromarray(values).save(tmp_path / "good.tif")
    assert (reading.read(tmp_path / "good.tif", convert=True).pixels == 128).all()
    values[3, 4] = value
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(PhotographError, match=said):
        reading.read(tmp_path / "a.tif", convert=True)


def test_integers_without_a_white_are_refused(tmp_path):
    Image.fromarray(np.full((20, 20), 7, np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(PhotographError, match="32-bit integers"):
        reading.read(tmp_path / "a.tif", convert=True)


def test_transparency_lies_on_white(tmp_path):
    values = noise(4)
    values[:4, :, 3] = 0
    Image.fromarray(values, "RGBA").save(tmp_path / "rgba.png")
    found = reading.read(tmp_path / "rgba.png", convert=True)
    alpha = values[..., 3:] / 255
    assert np.abs(found.pixels - (values[..., :3] * alpha + 255 * (1 - alpha))).max() <= 1.01
    assert (found.pixels[:4] == 255).all()
    assert not found.grey
    Image.fromarray(values[..., [0, 3]], "LA").save(tmp_path / "la.png")
    grey = reading.read(tmp_path / "la.png", convert=True)
    assert grey.one_channel
    assert (grey.pixels[:4] == 255).all()


@pytest.mark.parametrize(
    ("depth", "colour", "dark", "clear"),
    [
        (8, 2, (10, 20, 30), (10, 20, 30)),
        (16, 2, (10, 20, 30), (10 * 257, 20 * 257, 30 * 257)),
        (8, 0, (10,), (10,)),
        (16, 0, (10,), (10 * 257,)),
        (4, 0, (3 * 17,), (3,)),
        (2, 0, (85,), (1,)),
        (1, 0, (0,), (0,)),
    ],
)
def test_a_transparent_colour_at_any_depth(tmp_path, depth, colour, dark, clear):
    """One colour of the file stands for transparency; it is given at the file's depth."""
    if depth == 16:
        raw = struct.pack(f">{len(clear)}H", *clear) * 400
    else:  # 20 rows; a byte holds 8 / depth pixels
        filled = {8: 1, 4: 17, 2: 85, 1: 255}[depth]
        raw = bytes(v * filled for v in clear) * (20 * (20 * depth // 8 if depth > 1 else 3))
    with_colour = png(tmp_path / "a.png", depth, colour, raw, (20, 20), chunk_trns(*clear))
    with pytest.raises(PhotographError, match="--convert"):
        reading.read(with_colour)
    assert (reading.read(with_colour, convert=True).pixels == 255).all()
    plain = png(tmp_path / "b.png", depth, colour, raw, (20, 20))
    assert (reading.read(plain, convert=True).pixels == dark).all()


def test_grey_stays_grey(tmp_path):
    values = noise(1)
    Image.fromarray(values).save(tmp_path / "a.png")
    with pytest.raises(PhotographError, match=r"grayscale.*--convert"):
        reading.read(tmp_path / "a.png")
    Image.fromarray(np.stack([values] * 3, -1)).save(tmp_path / "b.png")
    Image.fromarray(noise()).save(tmp_path / "c.png")
    coloured = noise(seed=1)
    for name, mode in (("a.png", "L"), ("b.png", "RGB"), ("c.png", "RGB")):
        found = reading.read(tmp_path / name, convert=True)
        writing.save(coloured, found, tmp_path / f"out_{name}", "png", None)
        result = Image.open(tmp_path / f"out_{name}")
        pixels = np.asarray(result.convert("RGB")).astype(int)
        assert result.mode == mode
        assert (np.ptp(pixels, axis=-1).max() == 0) == (name != "c.png")


def jpeg_with_metadata(path, orientation: int = 6):
    exif = Image.Exif()
    exif[274], exif[271], exif[305] = orientation, "Maker", "Firmware 1"
    exif[0x8769] = {0x9003: "2024:01:02 03:04:05", 0xA002: SIDE + 8, 0xA003: SIDE, 0xA001: 65535}
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 15.0)}
    description = b'<rdf:Description tiff:Orientation="6" dc:t="hello"/>'
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">' + description + b"</x:xmpmeta>"
    Image.fromarray(noise()).save(path, exif=exif, xmp=xmp, dpi=(300, 300))
    return path


@pytest.mark.parametrize("kind", list(writing.FORMATS))
def test_metadata_goes_with_the_result(tmp_path, kind):
    found = reading.read(jpeg_with_metadata(tmp_path / "a.jpg"))
    assert found.pixels.shape == (SIDE + 8, SIDE, 3)
    big = np.repeat(np.repeat(found.pixels, 4, 0), 4, 1)
    target = tmp_path / f"out{writing.FORMATS[kind][0]}"
    assert writing.save(big, found, target, kind, None) == []
    with Image.open(target) as result:
        result.load()
        exif = result.getexif()
        assert result.format == kind.upper()
        assert result.size == (4 * SIDE, 4 * (SIDE + 8))
        assert exif.get(274, 1) == 1
        assert exif[271] == "Maker"
        assert exif[305] == "Firmware 1"
        details = exif.get_ifd(0x8769)
        assert details[0x9003] == "2024:01:02 03:04:05"
        assert details[0xA001] == 1
        assert (details[0xA002], details[0xA003]) == result.size
        assert exif.get_ifd(0x8825)[1] == "N"
        assert b"hello" in result.info["xmp"]
        assert b'Orientation="1"' in result.info["xmp"]
        if kind not in ("webp", "avif"):
            assert result.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert np.abs(np.asarray(result.convert("RGB")).astype(int) - big).mean() < 4


@pytest.mark.parametrize("orientation", [1, 3, 8, 99, 0])
def test_orientation(tmp_path, orientation):
    found = reading.read(jpeg_with_metadata(tmp_path / "a.jpg", orientation))
    with Image.open(tmp_path / "a.jpg") as image:
        turned = {3: Image.Transpose.ROTATE_180, 8: Image.Transpose.ROTATE_90}.get(orientation)
        wanted = np.asarray(image if turned is None else image.transpose(turned))
    assert (found.pixels == wanted).all()


def test_damaged_exif_is_told_and_left_out(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + b"garbage" * 20)
    found = reading.read(tmp_path / "a.jpg")
    assert found.notes == ["its EXIF block is damaged and is left out"]
    writing.save(found.pixels, found, tmp_path / "b.jpg", "jpeg", 90)
    with Image.open(tmp_path / "b.jpg") as picture:
        assert "exif" not in picture.info


def test_exif_that_a_format_cannot_hold_is_told(tmp_path):
    found = reading.read(jpeg_with_metadata(tmp_path / "a.jpg"))
    found.kept.exif[0x927C] = bytes(70000)  # a maker note
    assert writing.save(found.pixels, found, tmp_path / "b.jpg", "jpeg", None) == [
        "the maker note is too long for JPEG and is left out"
    ]
    with Image.open(tmp_path / "b.jpg") as picture:
        assert picture.getexif()[271] == "Maker"
    found.kept.xmp = bytes(70000)
    assert "XMP" in writing.save(found.pixels, found, tmp_path / "c.jpg", "jpeg", None)[1]
    assert writing.save(found.pixels, found, tmp_path / "d.tif", "tiff", None) == []


def test_several_pictures(tmp_path):
    frames = [Image.fromarray(noise(seed=s)) for s in range(2)]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(PhotographError, match=r"animated|2 pages"):
            reading.read(tmp_path / name, convert=True)
    frames[0].save(
        tmp_path / "a.mpo", save_all=True, append_images=frames[1:]
    )  # as phones make them
    found = reading.read(tmp_path / "a.mpo")
    assert found.pixels.shape == (SIDE, SIDE + 8, 3)
    assert "the first is taken" in found.notes[0]


def test_a_scanners_thumbnail_is_no_page(tmp_path):
    stream = io.BytesIO()
    full, small = Image.fromarray(noise()), Image.new("RGB", (16, 16))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    full.save(stream, "TIFF", save_all=True, append_images=[small])
    (tmp_path / "a.tif").write_bytes(stream.getvalue())
    with Image.open(tmp_path / "a.tif") as image:
        image.seek(1)
        if image.tag_v2.get(254) != 1:
            pytest.skip("this Pillow does not write the tag for a later page")
    assert (reading.read(tmp_path / "a.tif").pixels == noise()).all()


def test_a_picture_past_the_bound_names_the_option(tmp_path):
    path = png(tmp_path / "bomb.png", 1, 0, bytes(8 * 60), (60, 60))
    with pytest.raises(
        PhotographError, match=r"60x60 pixels .* past the bound .*--max-pixels 3600"
    ):
        reading.read(path, convert=True, max_pixels=3599, remedy="pass --max-pixels {pixels}")
    assert reading.read(path, convert=True, max_pixels=3600).pixels.shape == (60, 60, 3)
    # The size in the header alone: nothing of it is decoded or reserved.
    png(tmp_path / "huge.png", 8, 2, bytes(60), (1, 1))
    data = bytearray((tmp_path / "huge.png").read_bytes())
    data[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    (tmp_path / "huge.png").write_bytes(data)
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(PhotographError, match="2147483647x2147483647"):
        reading.read(tmp_path / "huge.png")
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"text", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "not an image"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 30, "not an image|damaged"),
        (b"\xff\xd8\xff\xe0", "not an image|damaged"),
    ],
)
def test_what_is_no_image(tmp_path, content, said):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(PhotographError, match=said):
        reading.read(tmp_path / "a.png", convert=True)


def test_a_folder_and_a_missing_file(tmp_path):
    with pytest.raises(PhotographError, match="is a folder"):
        reading.read(tmp_path)
    with pytest.raises(PhotographError, match="no such image file"):
        reading.read(tmp_path / "none.png")
    with pytest.raises(PhotographError, match="cannot be read"):
        reading.read(tmp_path / ("x" * 300))


@pytest.mark.parametrize("there", [True, False])
def test_heic_names_the_extra(tmp_path, monkeypatch, there):
    monkeypatch.setattr(header, "_register_heic", lambda: there)
    (tmp_path / "a.jpg").write_bytes(
        struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(80)
    )
    with pytest.raises(PhotographError, match="damaged" if there else "pip install pi-heif"):
        reading.read(tmp_path / "a.jpg")


def test_cmyk_and_lab(tmp_path):
    Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    found = reading.read(tmp_path / "a.tif", convert=True)
    assert (found.pixels == (255, 0, 0)).all()
    assert "CMYK without a colour profile" in found.notes[0]
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    ImageCms.applyTransform(Image.new("RGB", (SIDE, SIDE), (200, 30, 60)), to_lab).save(
        tmp_path / "lab.tif"
    )
    lab = reading.read(tmp_path / "lab.tif", convert=True).pixels
    assert np.abs(lab.astype(int) - (200, 30, 60)).max() <= 3


def test_nothing_is_overwritten_and_nothing_left(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.png")
    found = reading.read(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(CannotWriteError, match="exists"):
        writing.save(found.pixels, found, tmp_path / "a.png", "png", None)
    with pytest.raises(CannotWriteError, match="cannot write"):
        writing.save(found.pixels, found, tmp_path / "none" / "b.png", "png", None)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before


def test_values_become_bytes_in_strips():
    values = np.random.default_rng(0).random((1, 3, 600, 5), dtype=np.float32) * 1.2 - 0.1
    wanted = np.rint(values.clip(0, 1)[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    np.testing.assert_array_equal(writing.to_bytes(values), wanted)
    assert writing.to_bytes(wanted) is wanted
    values[0, 1, 599, 2] = np.nan
    with pytest.raises(PhotographError, match="not finite"):
        writing.to_bytes(values)


def test_names_are_printed_on_one_line():
    assert shown("a\nb\x1b[31m.png") == r"a\nb\x1b[31m.png"
    assert shown("ü 日本.png") == "ü 日本.png"
