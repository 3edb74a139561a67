"""Colour profiles: from the file's to sRGB, which the model knows and results are written in."""

import io

import numpy as np
from PIL import Image, ImageCms

MOST_BYTES = 8 * 2**20  # of a profile; printing presses' are 2 to 3 MB
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
_MODES = {"RGB": ("RGB",), "GRAY": ("L",), "CMYK": ("CMYK",)}


def to_srgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bool, list[str]]:
    """`image` in sRGB by the colour profile of its file.

    Args:
        image: Of mode L, RGB, CMYK or LAB.
        icc: The profile of the file, or None.

    Returns:
        The image, as L or RGB; whether the profile was used; what there is to say about it. Without
        a profile, and with one that cannot be used, L and RGB are taken as sRGB already.
    """
    if image.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        transform = ImageCms.buildTransform(lab, _srgb(), "LAB", "RGB", _INTENT, _FLAGS)
        return ImageCms.applyTransform(image, transform), True, []
    notes, used = [], None
    if icc:
        try:
            used = _by_profile(image, icc)
        except (ImageCms.PyCMSError, ImportError, OSError, ValueError, TypeError) as error:
            said = " ".join(str(error).split())
            notes.append(f"its colour profile cannot be used ({said}); " + _instead(image))
    if used is not None:
        return used, True, notes
    if image.mode == "CMYK":
        notes = notes or ["CMYK without a colour profile; its colours are approximate"]
        return image.convert("RGB"), False, notes
    return image, False, notes


def _instead(image: Image.Image) -> str:
    return "its colours are approximate" if image.mode == "CMYK" else "taken as sRGB"


def _srgb() -> object:
    return ImageCms.createProfile("sRGB")


def _by_profile(image: Image.Image, icc: bytes) -> Image.Image:
    """Raises ValueError or PyCMSError where the profile is none of this image."""
    if len(icc) > MOST_BYTES:
        raise ValueError(f"it has {len(icc)} bytes, more than {MOST_BYTES}")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    space = profile.profile.xcolor_space.strip()
    grey = image.mode == "L"
    if grey and space == "RGB":
        image = image.convert("RGB")  # equal channels under a profile of three
    if image.mode not in _MODES.get(space, ()):
        raise ValueError(f"it describes {space}, the image is {image.mode}")
    transform = ImageCms.buildTransform(profile, _srgb(), image.mode, "RGB", _INTENT, _FLAGS)
    if not _changes(transform, image.mode):
        return image.convert("L" if grey else "RGB")
    converted = ImageCms.applyTransform(image, transform)
    return converted.convert("L") if grey else converted


def _changes(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether it moves any of 17 values a channel by more than rounding, as sRGB does not."""
    if mode == "CMYK":
        return True
    steps = np.round(np.linspace(0, 255, 17)).astype(np.uint8)
    if mode == "L":
        before = Image.fromarray(steps[None])
    else:
        cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1)
        before = Image.fromarray(cube.reshape(17, -1, 3))
    after = np.asarray(ImageCms.applyTransform(before, transform), dtype=np.int16)
    change = np.abs(after - np.asarray(before.convert("RGB"), dtype=np.int16))
    return int(change.max()) > 1


def srgb_profile() -> bytes:
    """An sRGB profile, the same bytes at any time: its date is left out."""
    data = bytearray(ImageCms.ImageCmsProfile(_srgb()).tobytes())
    data[24:36] = bytes((7, 208, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0))  # 2000-01-01
    return bytes(data)
