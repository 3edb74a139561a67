"""Draw before_after.png: a photograph of scikit-image, enlarged and restored by embedded models.

    python docs/images/before_after.py

The low-resolution image is the photograph made four times smaller (Pillow, bicubic). Nothing is
fetched, nothing is random.
"""

from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from compress.recipe.checkpoint import load_model

ROOT = Path(__file__).parents[2]
PHOTOGRAPH = Path(str(files("skimage"))) / "data" / "coffee.png"
CROP = (175, 60, 415, 340)  # left, top, right, bottom in pixels of the photograph
SCALE, GAP, BAR = 4, 6, 26


def restore(name: str, small: Image.Image) -> Image.Image:
    """The image, four times as large, by an embedded model."""
    pixels = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)[None].float() / 255
    model = load_model(ROOT / "compress" / "assets" / f"{name}.safetensors")
    return Image.fromarray(model.upscale_bytes(pixels))


def main() -> None:
    """Write before_after.png beside this file."""
    photograph = Image.open(PHOTOGRAPH).convert("RGB")
    photograph = photograph.crop((0, 0, *(side - side % SCALE for side in photograph.size)))
    small = photograph.resize([side // SCALE for side in photograph.size], Image.Resampling.BICUBIC)
    columns = {
        "input, enlarged": small.resize(photograph.size, Image.Resampling.BICUBIC),
        "nano, 22.1 GMACs": restore("osediff_nano", small),
        "compressed, 7.7 GMACs": restore("adcsr_nano", small),
        "original": photograph,
    }
    width, height = CROP[2] - CROP[0], CROP[3] - CROP[1]
    size = (len(columns) * (width + GAP) - GAP, height + BAR)
    sheet, font = Image.new("RGB", size, "white"), ImageFont.load_default(15)
    draw = ImageDraw.Draw(sheet)
    for number, (title, image) in enumerate(columns.items()):
        left = number * (width + GAP)
        draw.text((left + 2, 3), title, "black", font)
        sheet.paste(image.crop(CROP), (left, BAR))
    sheet.save(Path(__file__).with_name("before_after.png"), optimize=True)


if __name__ == "__main__":
    main()
