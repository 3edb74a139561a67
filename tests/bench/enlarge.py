"""Enlarge the pictures of a folder four times by Pillow's bicubic.

python tests/bench/enlarge.py FOLDER -o OUT
"""

import argparse
from pathlib import Path

from PIL import Image

from compress.core.errors import command
from compress.core.image import list_images
from compress.model.sr_model import SCALE


@command
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    for path in list_images(options.folder):
        small = Image.open(path).convert("RGB")
        size = (SCALE * small.width, SCALE * small.height)
        large = small.resize(size, Image.Resampling.BICUBIC)
        large.save(options.out / f"{path.stem}.png")


if __name__ == "__main__":
    main()
