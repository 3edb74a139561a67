"""Which small image belongs to which large one: by file name.

Each image that is left over or wrong has a sentence that says why.
"""

from pathlib import Path

from PIL import Image

from compress.core.errors import UserError
from compress.core.image import SUFFIXES, list_images, read_image
from compress.model.sr_model import SCALE
from eval.data.named_sets import Layout

Found = dict[str, Path]  # name of an image -> its file
Problems = dict[str, str]  # name of an image -> what is wrong with it
PairOfFiles = tuple[Path | None, Path | None]  # small, large
Size = tuple[int, int]  # width, height in pixels
Sizes = tuple[Size | None, Size | None]  # small, large; None where there is no image

ORIENTATION = 0x0112  # tag of EXIF
FIRST_TURNED = 5  # from this orientation on, width and height are exchanged


def pair_up(layout: Layout) -> tuple[dict[str, PairOfFiles], Problems]:
    """The files of each image, and a sentence for each name that cannot be used.

    Args:
        layout: Folders as they can be opened; either side may have none.

    Raises:
        UserError: A folder is missing or holds no image, or no name is on both sides.
    """
    lows, low_problems = _side(layout.small, layout.small_suffix)
    highs, high_problems = _side(layout.large, layout.large_suffix)
    problems = low_problems | high_problems
    if layout.small and layout.large:
        problems |= match(
            {name: path for name, path in lows.items() if name not in problems},
            {name: path for name, path in highs.items() if name not in problems},
            layout.small[0],
            layout.large[0],
        )
    names = (lows.keys() | highs.keys()) - problems.keys()
    return {name: (lows.get(name), highs.get(name)) for name in names}, problems


def _side(folders: tuple[str, ...], suffix: str) -> tuple[Found, Problems]:
    if not folders:
        return {}, {}
    return by_stem([Path(folder) for folder in folders], suffix)


def by_stem(folders: list[Path], suffix: str = "") -> tuple[Found, Problems]:
    """Images by file name without suffixes, and a sentence for each name that two files share.

    Args:
        folders: Where they lie.
        suffix: Only names that end in it count; it is left out of the name.

    Raises:
        UserError: A folder is missing, or no image is found.
    """
    found: Found = {}
    problems: Problems = {}
    for folder in folders:
        for path in list_images(folder):
            if not path.stem.endswith(suffix):
                continue
            name = path.stem.removesuffix(suffix)
            if name in found:
                problems[name] = (
                    f"{folder}: {found[name].name} and {path.name} have the same name; "
                    "keep one of them"
                )
            found.setdefault(name, path)
    if not found:
        raise UserError(
            f"{folders[0]}: holds no image whose name ends in '{suffix}'; "
            f"expected {', '.join(SUFFIXES)} files"
        )
    return {name: path for name, path in found.items() if name not in problems}, problems


def restored_images(folder: Path, wanted: set[str]) -> tuple[Found, Problems]:
    """The restored image of each name: NAME, or NAME_x4 as compress.upscale writes it.

    Args:
        folder: Where the restored images are.
        wanted: Names of the images that were restored.

    Returns:
        Files by name, those of no name in `wanted` among them under their own; and a sentence for
        each name that two files have.

    Raises:
        UserError: The folder is missing or holds no image.
    """
    found, problems = by_stem([folder])
    taken = dict(found)
    for name in sorted(wanted):
        enlarged = f"{name}_x{SCALE}"
        if enlarged in wanted:
            continue
        if enlarged in problems:
            problems[name] = problems[enlarged]
        if enlarged not in found:
            continue
        path = taken.pop(enlarged)
        if name in found:
            problems[name] = (
                f"{folder}: {found[name].name} and {path.name} may both be the restored image of "
                f"'{name}'; keep one of them"
            )
            taken.pop(name, None)
        elif name not in problems:
            taken[name] = path
    return taken, problems


def match(left: Found, right: Found, left_place: str, right_place: str) -> Problems:
    """A sentence for each name that only one side has.

    Args:
        left: Files of one side by name.
        right: Files of the other.
        left_place: The folder of `left`, for messages.
        right_place: The folder of `right`.

    Raises:
        UserError: No name is on both sides.
    """
    alone = sorted(left.keys() ^ right.keys())
    if alone and not left.keys() & right.keys():
        more = " …" if len(alone) > 3 else ""
        raise UserError(
            f"{left_place} and {right_place}: no image has a partner of the same name "
            f"({', '.join(alone[:3])}{more}); rename them so that the names agree"
        )
    problems: Problems = {}
    for name in alone:
        file, place = (left[name], right_place) if name in left else (right[name], left_place)
        problems[name] = (
            f"{file}: no image of this name in {place}; rename or remove it so that the names agree"
        )
    return problems


def size(path: Path | None) -> Size | None:
    """Width and height in pixels after EXIF orientation, from the file's header alone.

    Returns:
        The size; None where there is no file.

    Raises:
        UserError: The header cannot be read.
    """
    if path is None:
        return None
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (height, width) if _is_turned(image) else (width, height)
    except (OSError, SyntaxError, ValueError):
        read_image(path)  # says what is wrong with the file
        raise


def _is_turned(image: Image.Image) -> bool:
    # PIL decodes a whole PNG to look for EXIF behind the pixels; what stands before them is known.
    if image.format == "PNG" and "exif" not in image.info:
        return False
    return image.getexif().get(ORIENTATION, 1) >= FIRST_TURNED


def sizes(small: Path | None, large: Path | None) -> Sizes:
    """Sizes of a pair.

    Raises:
        UserError: A file cannot be read, or the large one is not x4 of the small one.
    """
    low, high = size(small), size(large)
    if low is None or high is None:
        return low, high
    width, height = low[0] * SCALE, low[1] * SCALE
    if high != (width, height):
        raise UserError(
            f"{large}: {high[0]}x{high[1]} is not x{SCALE} of {small} ({low[0]}x{low[1]}); "
            f"expected {width}x{height}"
        )
    return low, high
