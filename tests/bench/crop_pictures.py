"""Cut a square out of the middle of a picture.

python tests/bench/crop_pictures.py PICTURE SIDE -o OUT
"""

import argparse
from pathlib import Path

from PIL import Image

from compress.core.errors import UserError, command


@command
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("side", type=int, help="in pixels")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args(argv)
    picture = Image.open(options.picture).convert("RGB")
    if not 0 < options.side <= min(picture.size):
        raise UserError(f"side: {options.side} is not from 1 to {min(picture.size)} pixels")
    left, top = ((size - options.side) // 2 for size in picture.size)
    square = picture.crop((left, top, left + options.side, top + options.side))
    options.out.mkdir(parents=True, exist_ok=True)
    square.save(options.out / f"{options.picture.stem}_{options.side}.png")


if __name__ == "__main__":
    main()
