"""Colour profiles: from the file's to sRGB, which the model knows and results are written in."""

import io

import numpy as np
from PIL import Image, ImageCms

MOST_BYTES = 8 * 2**20  # of a profile; printing presses' are 2 to 3 MB
STEPS = 17  # values of a channel by which a profile is compared with sRGB
DATE = slice(24, 36)  # bytes of a profile: year, month, day, hour, minute, second
JANUARY_2000 = bytes((7, 208, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0))
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
        return (
            _transformed(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))),
            True,
            [],
        )
    is_cmyk = image.mode == "CMYK"
    notes = []
    if icc:
        try:
            return _by_profile(image, icc), True, []
        except (ImageCms.PyCMSError, ImportError, OSError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())
            remedy = "its colours are approximate" if is_cmyk else "taken as sRGB"
            notes.append(f"its colour profile cannot be used ({reason}); {remedy}")
    elif is_cmyk:
        notes.append("CMYK without a colour profile; its colours are approximate")
    return image.convert("RGB") if is_cmyk else image, False, notes


def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _transform(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    """From a profile to sRGB, for images of a mode."""
    return ImageCms.buildTransform(profile, _srgb(), mode, "RGB", _INTENT, _FLAGS)


def _transformed(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    return _apply(image, _transform(profile, image.mode))


def _apply(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    """A transformed copy."""
    converted = ImageCms.applyTransform(image, transform)
    if converted is None:  # that is for a change in place, which is not asked for
        raise TypeError("the colour transform gave no image")
    return converted


def _by_profile(image: Image.Image, icc: bytes) -> Image.Image:
    """`image` in sRGB.

    Raises:
        ValueError: The profile is none of this image, or too large.
        PyCMSError: It is damaged.
    """
    if len(icc) > MOST_BYTES:
        raise ValueError(f"it has {len(icc)} bytes, more than {MOST_BYTES}")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    space = profile.profile.xcolor_space.strip()
    grey = image.mode == "L"
    if grey and space == "RGB":
        image = image.convert("RGB")  # equal channels under a profile of three
    if image.mode not in _MODES.get(space, ()):
        raise ValueError(f"it describes {space}, the image is {image.mode}")
    transform = _transform(profile, image.mode)
    if not _changes(transform, image.mode):
        return image.convert("L" if grey else "RGB")
    converted = _apply(image, transform)
    if grey:
        return converted.convert("L")
    return converted


def _changes(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether it moves any of STEPS values a channel by more than rounding, as sRGB does not."""
    if mode == "CMYK":
        return True
    steps = np.round(np.linspace(0, 255, STEPS)).astype(np.uint8)
    if mode == "L":
        before = Image.fromarray(steps[None])
    else:
        cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1)
        before = Image.fromarray(cube.reshape(STEPS, -1, 3))
    after = np.asarray(_apply(before, transform), dtype=np.int16)
    change = np.abs(after - np.asarray(before.convert("RGB"), dtype=np.int16))
    return int(change.max()) > 1


def srgb_profile() -> bytes:
    """An sRGB profile, the same bytes at any time: its date is left out."""
    data = bytearray(_srgb().tobytes())
    data[DATE] = JANUARY_2000
    return bytes(data)
