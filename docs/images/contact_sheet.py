"""Draw a contact sheet: photographs of RealSet65 by every model, side by side.

    python docs/images/contact_sheet.py MODEL... --data REALSET65 [--label NAME]... [--teacher DIR]
        -o contact_sheet.jpg

Rows are ten photographs, picked by name. Columns are the small image, bicubic enlargement, the
teacher, and the models in their order. What is restored is the middle of a photograph, at most
WINDOW pixels a side. What is shown is the middle of the result, at 200%. `--teacher` names a folder
with whole results, NAME.png.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from compress.core.errors import UserError, command
from compress.core.image import list_images
from compress.model.sr_model import SCALE
from compress.recipe.checkpoint import load_model

PHOTOGRAPHS = (
    "0014",
    "bears",
    "building",
    "butterfly",
    "cat1",
    "comic1",
    "dog2",
    "Lincoln",
    "oldphoto2",
    "panda",
)
WINDOW = 128  # pixels of the small image that are restored
SHOWN = 112  # pixels of the result that are shown
ZOOM, GAP, BAR = 2, 4, 20


def middle(image: Image.Image, side: int) -> Image.Image:
    """The middle of an image, at most `side` pixels a side."""
    width, height = (min(side, length) for length in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def shown(large: Image.Image) -> Image.Image:
    """What the sheet shows of a result."""
    part = middle(large, SHOWN)
    return part.resize((part.width * ZOOM, part.height * ZOOM), Image.Resampling.NEAREST)


def restored(model: str, small: list[Image.Image]) -> list[Image.Image]:
    """The images, four times as large."""
    network, results = load_model(model), []
    for image in small:
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
        results.append(Image.fromarray(network.upscale_bytes(pixels)))
    return results


def by_teacher(folder: Path, name: str, whole: Image.Image) -> Image.Image:
    """The middle of the teacher's result, as large as the models' results."""
    file = folder / f"{name}.png"
    if not file.is_file():
        raise UserError(f"--teacher {folder}: {file.name} is not there")
    large = Image.open(file).convert("RGB")
    if large.size != (SCALE * whole.width, SCALE * whole.height):
        raise UserError(f"{file}: is not {SCALE} times as large as its photograph")
    return middle(large, SCALE * WINDOW)


def draw(columns: dict[str, list[Image.Image]], names: list[str]) -> Image.Image:
    """The sheet: a column for each way, a row for each photograph."""
    side = SHOWN * ZOOM
    size = (len(columns) * (side + GAP) - GAP, len(names) * (side + GAP) + BAR)
    sheet, font = Image.new("RGB", size, "white"), ImageFont.load_default(14)
    pen = ImageDraw.Draw(sheet)
    for column, (title, images) in enumerate(columns.items()):
        left = column * (side + GAP)
        pen.text((left + 2, 2), title, "black", font)
        for row, image in enumerate(images):
            sheet.paste(shown(image), (left, BAR + row * (side + GAP)))
    return sheet


@torch.no_grad()
@command
def main(argv: list[str]) -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--data", type=Path, required=True, help="folder of RealSet65")
    parser.add_argument("--label", action="append", default=[], help="of each model, in order")
    parser.add_argument("--teacher", type=Path, help="folder of its results, NAME.png")
    parser.add_argument("--limit", type=int, help="only the first N photographs")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args(argv)
    labels = options.label or [Path(model).stem for model in options.models]
    if len(labels) != len(options.models):
        raise UserError(f"{len(options.models)} models and {len(labels)} --label; give one each")
    files = {path.stem: path for path in list_images(options.data)}
    names = list(PHOTOGRAPHS[: options.limit])
    absent = [name for name in names if name not in files]
    if absent:
        raise UserError(f"--data {options.data}: {absent[0]} is not there; give RealSet65")
    whole = [Image.open(files[name]).convert("RGB") for name in names]
    small = [middle(image, WINDOW) for image in whole]
    sizes = [(SCALE * image.width, SCALE * image.height) for image in small]
    pairs = list(zip(small, sizes, strict=True))
    columns = {
        "small": [image.resize(size, Image.Resampling.NEAREST) for image, size in pairs],
        "bicubic": [image.resize(size, Image.Resampling.BICUBIC) for image, size in pairs],
    }
    if options.teacher is not None:
        columns["teacher"] = [
            by_teacher(options.teacher, name, image)
            for name, image in zip(names, whole, strict=True)
        ]
    for label, model in zip(labels, options.models, strict=True):
        print(label, flush=True)
        columns[label] = restored(model, small)
    draw(columns, names).save(options.out, quality=88)


if __name__ == "__main__":
    main()
