"""In which order the components of a model are fitted, and against what.

`forward` is PassionSR's: one after another in running order, each against its own float output; a
component of the steps against the clean latent. What runs at several steps, or between them, is
observed at all of them. `backward` is QArtSR's (arXiv 2503.05584, section 3.3): from the last to
the first, each against the restored image through the quantised rest, so that errors count by what
they do to pixels. `polish` then learns all boundaries together against the image.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from compress.data.calibration import as_values
from compress.model.calls import CLEAN_LATENT, IMAGE, PREDICTION, Call, Values, run_calls
from compress.model.sr_model import SRModel
from compress.quant.distributed import Fitted, Options, fit_component
from compress.quant.flow import Flow
from compress.quant.objective import Objective, learn
from compress.quant.ranges import set_mode


@dataclass(frozen=True)
class FloatOutputs:
    """What the float model makes of the calibration images, one entry an image.

    Attributes:
        given: The images, as the model takes them.
        values: All that there is once the model has run, but for what the steps make.
        predictions: Of all steps of the process, along the first axis; empty without steps.
        between: What components that are no part of a step read and made between the steps, one
            entry a call: the component's name, and its values.
        restored: The last component's target: restored images, or the photographs.
        float_error: Where the target is the photographs, the float model's own relative error.
    """

    given: list[Values]
    values: list[Values]
    predictions: list[torch.Tensor]
    between: list[tuple[str, Values]]
    restored: list[torch.Tensor]
    float_error: float | None


@torch.no_grad()
def float_outputs(
    source: SRModel, images: list[torch.Tensor], references: list[torch.Tensor] | None
) -> FloatOutputs:
    """Run the float model on the calibration images.

    Args:
        source: The model before its quantisation.
        images: [1, 3, h, w] in [0, 1], of legal sizes.
        references: Photographs, [1, 3, 4h, 4w], where they are the last component's target.
    """
    given = as_values(source, images)
    constants = source.constants()
    wiring = source.wiring
    all_values = []
    predictions = []
    between: list[tuple[str, Values]] = []
    for start in given:
        values = {**start, **constants}
        run_calls(source, wiring.before, values)
        made: list[torch.Tensor] = []

        def note(call: Call, inputs: tuple, outputs: tuple, made: list = made) -> None:
            if PREDICTION in call.outputs:
                made.append(outputs[call.outputs.index(PREDICTION)])
            if not call.each_step:
                names = (*call.inputs, *call.outputs)
                seen = dict(zip(names, (*inputs, *outputs), strict=True))
                between.append((call.component, seen))

        values[CLEAN_LATENT] = source.restore(values, note)
        if made:
            predictions.append(torch.cat(made))
        run_calls(source, wiring.after, values)
        all_values.append(values)
    restored = [values[IMAGE] for values in all_values]
    outputs = FloatOutputs(given, all_values, predictions, between, restored, None)
    if references is None:
        return outputs
    total = 0.0
    for image, reference in zip(restored, references, strict=True):
        total += ((image - reference).square().mean() / reference.square().mean()).item()
    return replace(outputs, restored=references, float_error=total / len(images))


def fit_model(
    model: SRModel,
    source: SRModel,
    images: list[torch.Tensor],
    options: Options,
    flows: dict[str, Flow | None],
    references: list[torch.Tensor] | None = None,
) -> dict[str, dict]:
    """Fit the quantised components of `model` against the same model before its quantisation.

    Args:
        model: Converted, its quantisers in the learning state. They are frozen afterwards.
        source: The float model.
        images: Low-resolution calibration images, [1, 3, h, w] in [0, 1], of legal sizes.
        options: What is done.
        flows: The components that are fitted, by name, each with its flow or None. Figures come in
            this order.
        references: Photographs of the images, [1, 3, 4h, 4w], where they are the last component's
            target.

    Returns:
        Component's name -> figures for the ledger; `polish` and `float_model` where there are such.
    """
    fitting = _Fitting(model, float_outputs(source, images, references), options)
    names = [name for name, _ in model.components() if name in flows]
    for name in names:  # until its turn, for a process may call it between steps
        set_mode(getattr(model, name), "float")
    fitted: dict[str, Fitted] = {}
    for name in reversed(names) if options.order == "backward" else names:
        fitted[name] = fitting.fit(model.wiring.call(name), flows[name])
    polish_error = fitting.polish(fitted) if options.polish else None
    figures = {name: fitted[name].freeze() for name in flows}
    if polish_error is not None:
        figures["polish"] = {"error": polish_error}
    if fitting.outputs.float_error is not None:
        figures["float_model"] = {"error_to_references": fitting.outputs.float_error}
    return figures


class _Fitting:
    """A model while its components are fitted.

    Args:
        model: The converted model.
        outputs: Of the float model.
        options: What is done.
    """

    def __init__(self, model: SRModel, outputs: FloatOutputs, options: Options):
        self.model = model
        self.outputs = outputs
        self.options = options
        self.constants = model.constants()

    def fit(self, call: Call, flow: Flow | None) -> Fitted:
        """Fit one component in the order that the options say."""
        if self.options.order == "backward":
            inputs = self._float_inputs(call)
            objective = Objective(self.model.image_of, inputs, self.outputs.restored)
            return self._fit(call, objective, flow)
        inputs = self._inputs(call) if self.options.distributed else self._float_inputs(call)
        if call.each_step:
            clean = [values[CLEAN_LATENT] for values in self.outputs.values]
            objective = Objective(self.model.restore, inputs, clean)
            if self.model.process.adaptive:  # it need not take as many steps as the float model
                return self._fit(call, objective, flow)
            predictions = Objective(self._predictions, inputs, self.outputs.predictions)
            return self._fit(call, objective, flow, predictions)
        targets = self._targets(call)
        for name, seen in self.outputs.between:  # at other steps it sees other values
            if name == call.component:
                inputs.append({value: seen[value] for value in call.inputs})
                targets.append(_joined([seen[value] for value in call.outputs]))
        return self._fit(call, Objective(self._run(call), inputs, targets), flow)

    def _fit(
        self, call: Call, objective: Objective, flow: Flow | None, other: Objective | None = None
    ) -> Fitted:
        component = getattr(self.model, call.component)
        return fit_component(call.component, component, objective, self.options, flow, other)

    def polish(self, fitted: dict[str, Fitted]) -> tuple[float, float]:
        """Learn all boundaries together; returns the error of the image before and after."""
        parameters = []
        for part in fitted.values():
            set_mode(part.component, "quantise")
            parameters += part.boundaries()
        inputs = [{**given, **self.constants} for given in self.outputs.given]
        objective = Objective(self.model.image_of, inputs, self.outputs.restored)
        schedule = replace(self.options.schedule, epochs=self.options.polish)
        return learn("all: boundaries", parameters, objective, schedule)

    @torch.no_grad()
    def _inputs(self, call: Call) -> list[Values]:
        """What there is before a component, by the components that are quantised by then."""
        found = []
        for given in self.outputs.given:
            start = {**given, **self.constants}
            found.append(self.model.values_before(call.component, start))
        return found

    def _float_inputs(self, call: Call) -> list[Values]:
        """What there is before a component in the float model."""
        names = self.model.wiring.names_before(call.component)
        return [
            {name: value for name, value in values.items() if name in names} | self.constants
            for values in self.outputs.values
        ]

    def _run(self, call: Call) -> Callable[[Values], torch.Tensor]:
        """A component as a function of what there is before it."""

        def run(values: Values) -> torch.Tensor:
            local = dict(values)
            run_calls(self.model, [call], local)
            return _joined([local[name] for name in call.outputs])

        return run

    def _targets(self, call: Call) -> list[torch.Tensor]:
        """What the float model's component puts out."""
        if call.outputs == (IMAGE,):
            return list(self.outputs.restored)
        return [_joined([values[name] for name in call.outputs]) for values in self.outputs.values]

    def _predictions(self, values: Values) -> torch.Tensor:
        return torch.cat(self.model.all_predictions(values))


def _joined(tensors: list[torch.Tensor]) -> torch.Tensor:
    """A component's outputs as one tensor: the only one, or all in a row."""
    if len(tensors) == 1:
        return tensors[0]
    return torch.cat([tensor.flatten() for tensor in tensors])
