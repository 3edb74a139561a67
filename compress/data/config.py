"""What recipes say of images: photographs to train on, and images to calibrate with."""

from pydantic import Field

from compress.core.config import Strict
from compress.data.presets import PresetName


class Calibration(Strict):
    """The images on which a pass observes a model; none of them is trained on."""

    data: str = Field(
        "embedded",
        description=(
            "A folder of low-resolution photographs, or `embedded` for the few that come with "
            "scikit-image."
        ),
    )
    images: int = Field(16, ge=0, description="How many images are read.")
    size: int = Field(64, gt=0, description="Side of the square crops in low-resolution pixels.")
    hr: str | None = Field(
        None,
        description=(
            "For `target: hr`, a folder with the photographs themselves: four times as large, "
            "under the same names."
        ),
    )


class Photographs(Strict):
    """The photographs that a training pass crops and degrades."""

    folders: tuple[str, ...] = Field(
        ("embedded",),
        min_length=1,
        description=(
            "Folders of photographs; `embedded` stands for the few that come with scikit-image."
        ),
    )
    degradation: PresetName = Field(
        "mild", description="How low-resolution images are made from the photographs."
    )
