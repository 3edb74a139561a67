"""Write the smallest input of each hostile kind: python tests/hostile/make_cases.py FOLDER.

One folder a kind, as `try_cases.py` takes them. Nothing is downloaded and nothing random is in it.
"""

import argparse
import io
import json
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image, ImageCms, PngImagePlugin

GOOD_RECIPE = """name: t
source: {family: adcsr, size: nano}
passes:
  - {pass: strip}
export: []
eval: {data: [embedded], metrics: [psnr]}
seed: 0
"""
FORMAT = "diffusion-sr-compress/1"


def recipes() -> dict[str, bytes]:
    """Recipe files by name: text that YAML, the schema or an encoding trips over."""
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'x'}]" for n in range(12)]
    merges = ["m0: &m0 {k: v}"]
    merges += [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}" for n in range(1, 10)]

    def with_line(line: str) -> bytes:
        return (GOOD_RECIPE + line + "\n").encode()

    return {
        "good.yaml": GOOD_RECIPE.encode(),
        "bom.yaml": b"\xef\xbb\xbf" + GOOD_RECIPE.encode(),
        "binary.yaml": bytes(range(256)),
        "latin1.yaml": GOOD_RECIPE.replace("name: t", "name: café").encode("latin-1"),
        "utf16.yaml": GOOD_RECIPE.encode("utf-16"),
        "empty.yaml": b"",
        "scalar.yaml": b"5\n",
        "two_documents.yaml": GOOD_RECIPE.encode() + b"---\n" + GOOD_RECIPE.encode(),
        "equal_keys.yaml": with_line("seed: 1"),
        "unknown_key.yaml": with_line("sead: 1"),
        "null_key.yaml": with_line("null: 1"),
        "deep.yaml": b"a: " + b"{a: " * 20000 + b"}" * 20000,
        "alias_bomb.yaml": "\n".join(levels).encode(),
        "merge_bomb.yaml": "\n".join(merges).encode(),
        "alias_of_itself.yaml": b"a: &a [*a]\n",
        "tag_int.yaml": GOOD_RECIPE.replace("seed: 0", "seed: !!int zero").encode(),
        "tag_object.yaml": with_line("eval2: !!python/object/apply:os.getcwd []"),
        "huge_integer.yaml": GOOD_RECIPE.replace("seed: 0", "seed: 0x" + "f" * 6000).encode(),
        "seed_minus_one.yaml": GOOD_RECIPE.replace("seed: 0", "seed: -1").encode(),
        "seed_infinite.yaml": GOOD_RECIPE.replace("seed: 0", "seed: .inf").encode(),
        "family_mapping.yaml": GOOD_RECIPE.replace("family: adcsr", "family: {a: 1}").encode(),
        "pass_mapping.yaml": GOOD_RECIPE.replace("{pass: strip}", "{pass: {a: 1}}").encode(),
        "pass_misspelt.yaml": GOOD_RECIPE.replace("strip", "stripp").encode(),
        "pass_name_of_a_megabyte.yaml": GOOD_RECIPE.replace("strip", "s" * 10**6).encode(),
        "name_parent.yaml": GOOD_RECIPE.replace("name: t", "name: ..").encode(),
        "name_folder.yaml": GOOD_RECIPE.replace("name: t", "name: a/b").encode(),
        "name_nul.yaml": GOOD_RECIPE.replace("name: t", 'name: "a\\0b"').encode(),
    }


def stored_model(
    header: dict[str, str] | None, tensors: dict | None = None, data: bytes = b""
) -> bytes:
    """A safetensors file with this metadata and these entries."""
    content = dict(tensors or {})
    if header is not None:
        content["__metadata__"] = header
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + data


def checkpoints() -> dict[str, bytes]:
    """Model files by name whose header is not one of ours, or not a header."""
    source = json.dumps({"family": "adcsr", "size": "nano"})
    one = {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}

    def with_header(source: str, passes: str) -> bytes:
        return stored_model({"format": FORMAT, "source": source, "passes": passes}, one, bytes(4))

    return {
        "no_header.safetensors": stored_model(None, one, bytes(4)),
        "other_format.safetensors": stored_model({"format": "pt"}, one, bytes(4)),
        "no_source.safetensors": stored_model({"format": FORMAT, "passes": "[]"}, one, bytes(4)),
        "no_passes.safetensors": stored_model({"format": FORMAT, "source": source}, one, bytes(4)),
        "source_not_json.safetensors": with_header("{", "[]"),
        "source_null.safetensors": with_header("null", "[]"),
        "source_list.safetensors": with_header("[]", "[]"),
        "passes_number.safetensors": with_header(source, "3"),
        "passes_of_numbers.safetensors": with_header(source, "[1, 2]"),
        "deep_json.safetensors": with_header("[" * 100000, "[]"),
        "huge_channels.safetensors": with_header(
            json.dumps({"family": "osediff", "latent_channels": 10**9}), "[]"
        ),
        "weights_elsewhere.safetensors": with_header(
            json.dumps({"family": "osediff", "weights": "/etc/passwd"}), "[]"
        ),
        "hub_id.safetensors": with_header(
            json.dumps({"family": "osediff", "size": "sd21", "base": "somebody/model"}), "[]"
        ),
        "length_lies.safetensors": struct.pack("<Q", 2**60) + b"{}",
        "empty.safetensors": b"",
        "text.safetensors": b"this is a text\n",
    }


def photograph(width: int = 40, height: int = 32) -> Image.Image:
    """A smooth coloured picture."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [120 + 90 * np.sin(x / 7), 120 + 90 * np.cos(y / 5), 60 + 3 * ((x + y) % 40)]
    return Image.fromarray(np.uint8(np.stack(planes, -1).clip(0, 255)))


def png_of_claimed_size(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its data do not have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png_of_16_bits(channels: int) -> bytes:
    """A 16-bit PNG, written by hand because Pillow writes no such RGB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    values = np.linspace(0, 65535, 32 * 40 * channels).reshape(32, 40 * channels).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    colour = {1: 0, 3: 2}[channels]
    header = struct.pack(">IIBBBBB", 40, 32, 16, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def write_images(folder: Path) -> None:
    """Photographs as phones and scanners make them, and files that only look like photographs."""
    rgb = photograph()
    rgb.save(folder / "good.png")
    rgb.save(folder / "good.jpg", quality=90)
    rgb.save(folder / "-dash.png")
    rgb.save(folder / "name with space.png")
    rgb.save(folder / "<script>.png")
    rgb.save(folder / "ünïcödé.png")
    rgb.save(folder / "no_suffix", format="PNG")
    rgb.save(folder / "good.bmp")
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    rgb.convert("YCbCr").convert("RGB").save(folder / "ok.tif", compression="jpeg")
    rgb.convert("L").save(folder / "grey.png")
    rgb.convert("L").save(folder / "grey.jpg")
    rgb.convert("LA").save(folder / "grey_alpha.png")
    rgb.convert("RGBA").save(folder / "alpha.png")
    rgb.convert("P").save(folder / "palette.png")
    rgb.convert("P").save(folder / "palette_transparent.png", transparency=3)
    rgb.save(folder / "rgb_transparent_colour.png", transparency=(0, 0, 0))
    rgb.convert("1").save(folder / "one_bit.png")
    (folder / "grey_16_bit.png").write_bytes(png_of_16_bits(1))
    (folder / "rgb_16_bit.png").write_bytes(png_of_16_bits(3))
    plane = np.linspace(0, 1, 32 * 40, dtype=np.float32).reshape(32, 40)
    Image.fromarray(plane).save(folder / "float.tif")
    Image.fromarray(np.where(plane > 0.9, np.nan, plane)).save(folder / "float_nan.tif")
    Image.fromarray(plane * 3 - 1).save(folder / "float_outside.tif")
    Image.fromarray((plane * 2**30).astype(np.int32)).save(folder / "integers_32_bit.tif")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rgb.save(folder / "profile_srgb.png", icc_profile=profile)
    rgb.save(folder / "profile_garbage.png", icc_profile=b"garbage" * 50)
    orientation = Image.Exif()
    orientation[0x0112] = 6
    rgb.save(folder / "orientation_6.jpg", exif=orientation.tobytes())
    orientation[0x0112] = 99
    rgb.save(folder / "orientation_99.jpg", exif=orientation.tobytes())
    rgb.save(folder / "exif_garbage.jpg", exif=b"Exif\0\0garbage")
    frames = [photograph(), photograph().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "animated.webp", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "pages.tif", save_all=True, append_images=frames[1:])
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 10_000_000, zip=True)
    rgb.save(folder / "text_bomb.png", pnginfo=text)
    (folder / "claims_a_gigapixel.png").write_bytes(png_of_claimed_size(40000, 30000))
    photograph(16, 1).save(folder / "one_row.png")
    photograph(17, 600).save(folder / "narrow.png")
    (folder / "truncated.png").write_bytes((folder / "good.png").read_bytes()[:150])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"this is a text\n")
    (folder / "drawing.png").write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>")


def graph(
    nodes: list, inputs: list, outputs: list, opset: int | None = 20, weights: list | None = None
) -> bytes:
    """An ONNX file of these nodes; `opset` None leaves it out."""
    made = helper.make_graph(nodes, "g", inputs, outputs, weights or [])
    imports = [] if opset is None else [helper.make_opsetid("", opset)]
    model = helper.make_model(made, opset_imports=imports, ir_version=10)
    if opset is None:
        del model.opset_import[:]
    return model.SerializeToString()


def value(name: str, shape: list | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """A graph's input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def graphs() -> dict[str, bytes]:
    """Malformed ONNX files by name."""
    picture, result = value("lr", [1, 3, 32, 32]), value("sr", [1, 3, 32, 32])
    relu = helper.make_node("Relu", ["lr"], ["sr"])
    cycle = [
        helper.make_node("Add", ["lr", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Relu", ["b"], ["sr"]),
    ]
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 3, 1, 1])
    weight.data_location = TensorProto.EXTERNAL
    convolution = helper.make_node("Conv", ["lr", "w"], ["sr"])

    def with_external(location: str) -> bytes:
        outside = TensorProto()
        outside.CopyFrom(weight)
        outside.external_data.add(key="location", value=location)
        return graph([convolution], [picture], [result], weights=[outside])

    return {
        "good.onnx": graph([relu], [picture], [result]),
        "no_opset.onnx": graph([relu], [picture], [result], opset=None),
        "no_input.onnx": graph(
            [helper.make_node("Constant", [], ["sr"], value_float=1.0)], [], [value("sr", [])]
        ),
        "cycle.onnx": graph(cycle, [picture], [result]),
        "undefined.onnx": graph(
            [helper.make_node("Relu", ["nowhere"], ["sr"])], [picture], [result]
        ),
        "sizes_lie.onnx": graph([relu], [picture], [value("sr", [1, 3, 64, 64])]),
        "strings.onnx": graph(
            [helper.make_node("Identity", ["lr"], ["sr"])],
            [value("lr", [1, 3, 32, 32], TensorProto.STRING)],
            [value("sr", [1, 3, 32, 32], TensorProto.STRING)],
        ),
        "external_parent.onnx": with_external("../../../etc/passwd"),
        "external_absolute.onnx": with_external("/etc/passwd"),
        "external_missing.onnx": with_external("missing.bin"),
        "garbage.onnx": bytes(range(256)) * 4,
        "empty.onnx": b"",
    }


class Stranger:
    """An object that a checkpoint has no business to hold."""


def saved(content: object) -> bytes:
    """A file of torch.save: of any other pickle torch reads nothing."""
    import torch

    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def pickles() -> dict[str, bytes]:
    """Weight files by name that hold something else than named tensors."""
    return {
        "number.pkl": saved(5),
        "text_values.pkl": saved({"unet": {"a": "b"}, "vae": {}}),
        "object.pkl": saved({"unet": Stranger}),
        "plain.pkl": pickle.dumps({"unet": {}, "vae": {}}),
        "text.pkl": b"this is a text\n",
        "empty.pkl": b"",
    }


# What must come of a case; of every other one a sentence. "converted": a result with --convert
# alone.
RESULTS = {
    "recipes": {"good.yaml", "bom.yaml"},
    "onnx": {"good.onnx"},
    "img": {
        "good.png",
        "good.jpg",
        "-dash.png",
        "name with space.png",
        "<script>.png",
        "ünïcödé.png",
        "no_suffix",
        "good.bmp",
        "ok.tif",
        "profile_srgb.png",
        "profile_garbage.png",
        "orientation_6.jpg",
        "orientation_99.jpg",
        "exif_garbage.jpg",
        "narrow.png",
    },
    "converted": {
        "cmyk.jpg",
        "grey.png",
        "grey.jpg",
        "grey_alpha.png",
        "alpha.png",
        "palette.png",
        "palette_transparent.png",
        "rgb_transparent_colour.png",
        "one_bit.png",
        "grey_16_bit.png",
        "rgb_16_bit.png",
        "float.tif",
    },
}


def expected_endings(folder: Path) -> dict[str, str]:
    """kind/name -> result, converted or sentence, for every case below `folder`."""
    endings = {}
    for path in sorted(folder.glob("*/*")):
        kind, name = path.parent.name, path.name
        is_result = name in RESULTS.get(kind, ())
        is_converted = kind == "img" and name in RESULTS["converted"]
        endings[f"{kind}/{name}"] = (
            "result" if is_result else "converted" if is_converted else "sentence"
        )
    return endings


def write_cases(folder: Path) -> None:
    """Write every kind below `folder`, which must not exist."""
    folder.mkdir(parents=True)
    for kind, files in (
        ("recipes", recipes()),
        ("ckpt", checkpoints()),
        ("onnx", graphs()),
        ("pickles", pickles()),
    ):
        (folder / kind).mkdir()
        for name, content in files.items():
            (folder / kind / name).write_bytes(content)
    (folder / "img").mkdir()
    write_images(folder / "img")
    text = json.dumps(expected_endings(folder), indent=1, ensure_ascii=False)
    (folder / "expected.json").write_text(text, encoding="utf-8")


def main() -> None:
    """Write the cases into the folder that the command names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write them; must not exist")
    write_cases(parser.parse_args().folder)


if __name__ == "__main__":
    main()
