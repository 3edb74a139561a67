"""Which small image belongs to which large one: by file name, with a sentence for each that is left over or wrong."""

from pathlib import Path

from PIL import Image

from compress.core.errors import UserError
from compress.core.image import SUFFIXES, list_images, read_image
from compress.model.sr_model import SCALE

Found = dict[str, Path]
Problems = dict[str, str]


def by_stem(folders: list[Path], suffix: str = "") -> tuple[Found, Problems]:
    """Images of `folders` by file name without suffixes, and a sentence for each name that two files share.

    With `suffix` only names that end in it count. Raises UserError for a missing folder or where no image is found.
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
                    f"{folder}: {found[name].name} and {path.name} have the same name; keep one of them"
                )
            found.setdefault(name, path)
    if not found:
        raise UserError(
            f"{folders[0]}: holds no image whose name ends in '{suffix}'; expected {', '.join(SUFFIXES)} "
            "files"
        )
    return {name: path for name, path in found.items() if name not in problems}, problems


def restored_images(folder: Path, wanted: set[str]) -> tuple[Found, Problems]:
    """The image of `folder` for each name in `wanted`: NAME, or NAME_x4 as compress.upscale writes
    it.

    Returns:
        Files by name, those of no name in `wanted` among them under their own; and a sentence for
        each name that two files have. Raises UserError for a missing folder or one without images.
    """
    found, problems = by_stem([folder])
    taken = dict(found)
    for name in sorted(wanted):
        other = f"{name}_x{SCALE}"
        if other in wanted:
            continue
        if other in problems:
            problems[name] = problems[other]
        if other not in found:
            continue
        path = taken.pop(other)
        if name in found:
            problems[name] = (
                f"{folder}: {found[name].name} and {path.name} may both be the "
                f"restored image of '{name}'; "
                "keep one of them"
            )
            taken.pop(name, None)
        elif name not in problems:
            taken[name] = path
    return taken, problems


def match(left: Found, right: Found, left_place: str, right_place: str) -> Problems:
    """A sentence for each name that only one side has. Raises UserError if no name is on both."""
    alone = sorted(left.keys() ^ right.keys())
    if alone and not left.keys() & right.keys():
        some = ", ".join(alone[:3]) + (" …" if len(alone) > 3 else "")
        raise UserError(
            f"{left_place} and {right_place}: no image has a partner of the same name ({some}); rename "
            "them so that the names agree"
        )
    return {
        name: f"{(left.get(name) or right.get(name))}: no image of this name in "
        f"{right_place if name in left else left_place}; rename or remove it so that the names agree"
        for name in alone
    }


def size(path: Path | None) -> tuple[int, int] | None:
    """(width, height) after EXIF orientation, from the header alone. Raises UserError if that cannot be read."""
    if path is None:
        return None
    try:
        with Image.open(path) as image:
            # PIL decodes a whole PNG to look for EXIF behind the pixels; what stands before them is known already
            known = image.format != "PNG" or "exif" in image.info
            turned = known and image.getexif().get(0x0112, 1) >= 5
            return image.size[::-1] if turned else image.size
    except (OSError, SyntaxError, ValueError):
        read_image(path)  # says what is wrong with the file
        raise


def sizes(
    small: Path | None, large: Path | None
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Sizes of a pair. Raises UserError if a file cannot be read or the large one is not x4 of the small one."""
    low, high = size(small), size(large)
    if low and high and high != (low[0] * SCALE, low[1] * SCALE):
        raise UserError(
            f"{large}: {high[0]}x{high[1]} is not x{SCALE} of {small} ({low[0]}x{low[1]}); expected "
            f"{low[0] * SCALE}x{low[1] * SCALE}"
        )
    return low, high
