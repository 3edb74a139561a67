"""Pictures of one folder against those of the same names in another.

python tests/bench/compare_pictures.py FOLDER FOLDER
"""

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image
from rows import add_json, write_rows

from compress.core.errors import UserError, command
from compress.core.image import list_images


@command
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs=2, type=Path)
    add_json(parser)
    options = parser.parse_args(argv)
    rows = []
    for path in list_images(options.folders[0]):
        other = options.folders[1] / path.name
        if not other.is_file():
            raise UserError(f"{other}: is not there")
        first, second = (np.asarray(Image.open(file), dtype=float) for file in (path, other))
        error = np.square((first - second) / 255).mean()
        psnr = -10 * math.log10(error) if error else None  # no difference has no figure in dB
        largest = float(np.abs(first - second).max())
        rows.append({"picture": path.stem, "psnr_db": psnr, "largest": largest})
        print(rows[-1])
    write_rows(options.json, rows)


if __name__ == "__main__":
    main()
