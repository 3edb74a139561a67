"""Weights between the model's own and those of a more faithful one of the same structure."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from compress.core.errors import UserError
from compress.core.identity import files_key
from compress.core.tensors import read_tensors
from compress.cost.count import meta_copy
from compress.model.passes import FitContext, Pass
from compress.model.sr_model import SRModel
from compress.quant.interpolation import check_float, interpolate

WHO = "pass 'interpolate'"


class Interpolate(Pass):
    """Set the weights on the line between two trainings of one structure.

    At strength 1 the weights stay, at 0 they are those of the file. What follows, such as
    `quantize`, acts on the mixture, and what is exported is it. It is the weights' form of the knob
    of realism: the file is a model before its adversarial training, or one for fidelity alone.
    """

    changes_structure: ClassVar[bool] = False

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["interpolate"] = Field(
        default="interpolate", alias="pass", description="Names the pass."
    )
    weights: str = Field(
        description="The faithful model: a run directory or model.safetensors whose tensors have "
        "the names and shapes that the model has here, or the weight file of a nano."
    )
    strength: float = Field(
        0.5, ge=0, le=1, description="The share of the model's own weights; the rest is the file's."
    )

    def convert(self, model: SRModel) -> None:
        """Nothing: the structure stays.

        Raises:
            UserError: The model is quantised.
        """
        check_float(model, WHO)

    def fit(self, model: SRModel, context: FitContext) -> dict[str, Any]:
        """Mix the weights.

        Raises:
            UserError: The file is missing, or its tensors do not fit the model.
        """
        file = self._file()
        if not file.is_file():
            raise UserError(
                f"{WHO}: weights: {file} does not exist; train one, or correct the path"
            )
        twin = meta_copy(model)
        read_tensors(twin, file)
        interpolate(model, twin, self.strength, WHO)
        return {"weights": file.name, "strength": self.strength}

    def _file(self) -> Path:
        path = Path(self.weights)
        return path / "model.safetensors" if path.is_dir() else path

    def data_key(self) -> str:
        """Identity of the weights."""
        return files_key([self._file()])
