"""What torch computes of some images, which a runtime is compared with."""

from dataclasses import dataclass

import numpy as np
import torch

from compress.core.errors import UserError
from compress.data.calibration import as_values
from compress.model.calls import CLEAN_LATENT, IMAGE, LR, Call, Values, run_calls
from compress.model.sr_model import SRModel
from export.graphs.components import MODEL, Tensors, corrected, graphs_of
from export.parity.measure import Arrays
from export.parity.probes import PHOTOGRAPH

Images = dict[str, torch.Tensor]
Computed = tuple[Tensors, Tensors]  # inputs and outputs of a graph


@dataclass(frozen=True)
class Case:
    """One graph on one image, as torch computes it.

    Attributes:
        probe: The image's name, and the step if there are several.
        lr: The image, float32 [1, 3, h, w] in [0, 1].
        inputs: What reaches the graph.
        expected: What the graph gives.
        peaks: Of each output: 1 for images, the greatest magnitude for latents.
    """

    probe: str
    lr: torch.Tensor
    inputs: Tensors
    expected: Arrays
    peaks: tuple[float, ...]

    @property
    def is_photograph(self) -> bool:
        """Whether the image is one, and no probe."""
        return self.probe.startswith(PHOTOGRAPH)

    @property
    def is_of_one_colour(self) -> bool:
        """Whether all pixels of the image are the same."""
        return torch.equal(self.lr, self.lr[..., :1, :1].expand_as(self.lr))


class Reference:
    """What torch computes of some images: each component once, for all graphs that hold it.

    Args:
        model: It is set to evaluation.
        images: Name -> float32 [1, 3, h, w] in [0, 1].
    """

    def __init__(self, model: SRModel, images: Images):
        self.model = model.eval()
        self.graphs = graphs_of(model)
        given = as_values(model, list(images.values()))
        self._values: dict[str, Values] = dict(zip(images, given, strict=True))
        self._steps: dict[str, dict[str, list[Computed]]] = {}

    @torch.no_grad()
    def cases(self, stem: str) -> list[Case]:
        """What torch gives for graph `stem` on each image, at each step if it takes the states.

        Raises:
            UserError: Something that is not finite.
        """
        cases = []
        for probe, values in self._values.items():
            computed = self._computed(stem, probe)
            for step, (inputs, outputs) in enumerate(computed, 1):
                label = f"{probe}, step {step}" if len(computed) > 1 else probe
                expected = tuple(output.numpy() for output in outputs)
                self._check_finite(stem, probe, expected)
                names = self.graphs[stem].outputs
                peaks = tuple(_peak(*pair) for pair in zip(names, expected, strict=True))
                cases.append(Case(label, values[LR], inputs, expected, peaks))
        return cases

    def _computed(self, stem: str, probe: str) -> list[Computed]:
        """Inputs and outputs of a graph, for each step where it is called at each."""
        values = self._values[probe]
        inputs = self.graphs[stem].inputs
        if stem == MODEL:
            self._finish(probe)
            image = corrected(self.model, values[IMAGE], values[LR])
            return [(_pick(values, inputs), (image,))]
        call = self.model.wiring.call(stem)
        if call.in_process:
            self._restore(probe)
            return self._steps[probe][stem]
        if call in self.model.wiring.before:
            run_calls(self.model, self.model.wiring.before, values)
        else:
            self._finish(probe)
        return [(_pick(values, inputs), _pick(values, call.outputs))]

    def _restore(self, probe: str) -> None:
        """The process, whose calls are kept."""
        values = self._values[probe]
        if CLEAN_LATENT in values:
            return
        run_calls(self.model, self.model.wiring.before, values)
        steps: dict[str, list[Computed]] = {name: [] for name in self.graphs}
        seen = dict(values)

        def keep(call: Call, inputs: tuple, outputs: tuple) -> None:
            seen.update(zip(call.inputs, inputs, strict=True))
            if call.component in steps:
                names = self.graphs[call.component].inputs
                steps[call.component].append((_pick(seen, names), outputs))
            seen.update(zip(call.outputs, outputs, strict=True))

        values[CLEAN_LATENT] = self.model.restore(values, keep)
        self._steps[probe] = steps

    def _finish(self, probe: str) -> None:
        """The calls behind the process."""
        self._restore(probe)
        run_calls(self.model, self.model.wiring.after, self._values[probe])

    @staticmethod
    def _check_finite(stem: str, probe: str, expected: Arrays) -> None:
        if not all(np.isfinite(output).all() for output in expected):
            raise UserError(
                f"{stem}: the torch model itself gives values that are not finite on the "
                f"{probe} probe, so there is nothing to compare with; calibrate or train it "
                "again"
            )


def _pick(values: Values, names: tuple[str, ...]) -> Tensors:
    return tuple(values[name] for name in names)


def _peak(name: str, expected: np.ndarray) -> float:
    if name in ("sr", "image"):
        return 1.0
    return float(np.abs(expected).max()) or 1.0
