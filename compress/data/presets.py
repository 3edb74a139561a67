"""How strongly photographs are degraded: Real-ESRGAN's two rounds, and the settings in use."""

from dataclasses import dataclass, fields
from typing import Literal


@dataclass(frozen=True)
class Stage:
    """One blur-resize-noise-JPEG round.

    Attributes:
        blur_probability: That there is a blur.
        blur_sigma: Its standard deviation in pixels, from and to.
        resize_probability: Of making it larger, smaller, or neither.
        resize_range: The factor, from and to.
        gaussian_noise: Its standard deviation in 8-bit units, from and to.
        poisson_scale: The factor of Poisson noise, from and to.
        jpeg_quality: From and to, of 100.
    """

    blur_probability: float
    blur_sigma: tuple[float, float]
    resize_probability: tuple[float, float, float]
    resize_range: tuple[float, float]
    gaussian_noise: tuple[float, float]
    poisson_scale: tuple[float, float]
    jpeg_quality: tuple[float, float]


@dataclass(frozen=True, repr=False)
class SecondOrder:
    """Two rounds, and what they have in common.

    Attributes:
        first: The round at the size of the photograph.
        second: The round at the size of the result.
        gaussian_probability: Of Gaussian noise; it is Poisson noise otherwise.
        gray_probability: Of noise without colour.
        sinc_probability: Of a sinc filter in place of a blur.
        final_sinc_probability: Of a sinc filter at the end.
    """

    first: Stage
    second: Stage
    gaussian_probability: float = 0.5
    gray_probability: float = 0.4
    sinc_probability: float = 0.1
    final_sinc_probability: float = 0.8

    def __repr__(self) -> str:
        """By its old name: the key of every pool of a teacher's images holds this text."""
        values = [f"{field.name}={getattr(self, field.name)!r}" for field in fields(self)]
        return f"Degradation({', '.join(values)})"


# One, or several of which each batch gets one.
Degradation = SecondOrder | tuple[SecondOrder, ...]

REALESRGAN = SecondOrder(
    Stage(1.0, (0.2, 3.0), (0.2, 0.7, 0.1), (0.15, 1.5), (1, 30), (0.05, 3.0), (30, 95)),
    Stage(0.8, (0.2, 1.5), (0.3, 0.4, 0.3), (0.3, 1.2), (1, 25), (0.05, 2.5), (30, 95)),
)
# AdcSR's milder setting, nearer to photographs of a present-day camera.
MILD = SecondOrder(
    Stage(1.0, (0.1, 1.5), (0.2, 0.7, 0.1), (0.3, 1.5), (1, 15), (0.05, 2.0), (60, 95)),
    Stage(0.5, (0.1, 1.0), (0.3, 0.4, 0.3), (0.6, 1.2), (1, 12), (0.05, 1.0), (60, 100)),
)
# Images as a camera of today stores them: blurred by a lens, with little noise and no strong JPEG.
# The others have noise and JPEG in every image, and a network that learns from them alone stays
# soft where there is none.
CLEAN = SecondOrder(
    Stage(1.0, (0.2, 2.0), (0.1, 0.2, 0.7), (0.6, 1.2), (0, 2), (0.01, 0.2), (90, 100)),
    Stage(0.5, (0.2, 1.2), (0.1, 0.2, 0.7), (0.8, 1.2), (0, 1), (0.01, 0.1), (95, 100)),
    final_sinc_probability=0.2,
)
PresetName = Literal["clean", "mild", "realesrgan", "mixed", "wide", "camera"]
PRESETS: dict[str, Degradation] = {
    "clean": CLEAN,
    "mild": MILD,
    "realesrgan": REALESRGAN,
    "mixed": (MILD, REALESRGAN),
    "wide": (CLEAN, MILD, REALESRGAN),
    # For photographs as they come from a phone: two batches of three are clean.
    "camera": (CLEAN, CLEAN, MILD),
}
