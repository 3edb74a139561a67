"""What references cost: making what is kept of one, and the tensors that are kept."""

from math import prod
from typing import Any, NamedTuple

from compress.cost.cost import Cost
from compress.cost.count import measure_module, meta_copy
from compress.model.references import PHOTOGRAPH
from compress.model.sr_model import SRModel

KEPT_BYTES = 4  # of a number in the file, float32
M = 1e6


class ReferenceCost(NamedTuple):
    """The cost of references, which is no part of a run.

    Attributes:
        component: Makes what is kept.
        making: Of one photograph, once.
        places: For how many photographs there is room.
        numbers: Kept of one photograph.
    """

    component: str
    making: Cost
    places: int
    numbers: int

    @property
    def bytes(self) -> int:
        """Of the file that holds all places, without its header."""
        return KEPT_BYTES * self.places * self.numbers

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "component": self.component,
            "size": list(self.making.lr_size),
            "making": self.making.totals(),
            "places": self.places,
            "numbers_of_one": self.numbers,
            "bytes": self.bytes,
        }

    def as_lines(self) -> list[str]:
        """For a terminal."""
        height, width = self.making.lr_size
        return [
            f"references, {self.places} of {width}x{height}: {self.component} runs once a "
            f"photograph and not with the image: {self.making.params:,} parameters, "
            f"{self.making.macs_paper:,} paper MACs, {self.making.macs_full:,} full MACs each",
            f"kept of references, inputs of the graphs: {self.numbers:,} numbers each, "
            f"{self.bytes:,} bytes of all at float32 ({self.bytes / M:,.2f} MB)",
        ]


def reference_cost(model: SRModel) -> ReferenceCost | None:
    """Count what references cost; None for a model that takes none. No weight is read."""
    references = model.wiring.references
    if references is None:
        return None
    twin = meta_copy(model)
    values = twin.constants()
    photograph = model.blank(model.multiple, model.multiple)["lr"].new_empty(1, 3, *references.size)
    call = twin.wiring.call(references.component)
    context = [values[name] for name in call.inputs if name != PHOTOGRAPH]
    given = [value for value in context if value is not None]
    making = measure_module(
        twin.get_submodule(references.component), photograph, *given, name=references.component
    )
    numbers = sum(prod(shape) for shape in references.kept.values())
    return ReferenceCost(references.component, making, references.count, numbers)
