"""Named components, how they are called, and the process between them."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from compress.core.errors import UserError, nearest
from compress.model.calls import (
    CLEAN_LATENT,
    IMAGE,
    LATENT,
    LR,
    PREDICTION,
    STATE,
    TIMESTEP,
    Call,
    References,
    Values,
    Watch,
    Wiring,
    run_calls,
)
from compress.model.steps import at_step
from compress.process.contract import Process, Steps

ROLES = ("text_encoder", "encoder", "denoiser", "decoder")  # of a plain wiring
SHOWN = 60  # characters of a name in a sentence


class Components(nn.Module):
    """Networks under their names, in running order.

    A component is an attribute of its name, which a pass may replace. One that the wiring calls and
    that is not there, or None, is left out; who reads what it would make gets None.

    Args:
        components: Name -> network.
        process: Calls the components of a step, once or for each of its steps, and any other one
            between them.
        wiring: The calls, in running order.

    Raises:
        ValueError: A component is never called.
    """

    def __init__(
        self, components: Mapping[str, nn.Module | None], process: Process, wiring: Wiring
    ):
        super().__init__()
        called = [call.component for call in wiring.calls]
        for name in components.keys() - set(called):
            raise ValueError(f"component {name} is never called; the calls are of {called}")
        for name in called:
            setattr(self, name, components.get(name))
        self.process = process
        self.wiring = wiring

    def put_process(self, process: Process) -> None:
        """Another process in the place of this one; either may be a network or not."""
        del self.process
        self.process = process

    def components(self) -> Iterator[tuple[str, nn.Module]]:
        """(name, module) of the parts this model has, in the order they run."""
        for call in self.wiring.calls:
            module = getattr(self, call.component)
            if module is not None:
                yield call.component, module

    def component(self, name: str, who: str) -> Any:
        """The component of that name.

        Args:
            name: Its name.
            who: What needs it, such as "pass 'strip'", for the sentence of the error.

        Raises:
            UserError: The model has none.
        """
        module = getattr(self, name, None) if name in self._called() else None
        if module is None:
            names = [name for name, _ in self.components()]
            raise UserError(
                f"{who}: this model has no {name[:SHOWN]}{nearest(name, names)}; its components "
                f"are {', '.join(names)}"
            )
        return module

    def check_plain(self, who: str) -> None:
        """Refuse a model with other components than encoder, denoiser, decoder and text encoder.

        Args:
            who: What needs a plain one, such as "pass 'distill'", for the sentence of the error.

        Raises:
            UserError: It has others, or lacks one of the first three.
        """
        others = [name for name in self._called() if name not in ROLES]
        if others:
            raise UserError(
                f"{who}: knows models of encoder, denoiser and decoder alone, and this one has "
                f"{', '.join(others)} besides"
            )
        for name in ROLES[1:]:
            self.component(name, who)

    def check_decoder(self, who: str) -> None:
        """Refuse a model whose decoder takes anything but the clean latent, or several images.

        Args:
            who: What needs such a one, for the sentence of the error.

        Raises:
            UserError: It is another, or has no decoder.
        """
        self.component("decoder", who)
        read = self.wiring.call("decoder").inputs
        if read != (CLEAN_LATENT,):
            raise UserError(
                f"{who}: knows decoders of the clean latent alone; this one reads {', '.join(read)}"
            )
        if self.wiring.given:
            raise UserError(
                f"{who}: trains on one image, and this model also takes "
                f"{', '.join(self.wiring.given)}"
            )

    def _called(self) -> list[str]:
        return [call.component for call in self.wiring.calls]

    def given(self, lr: torch.Tensor, images: Mapping[str, torch.Tensor] | None = None) -> Values:
        """The images as values.

        Args:
            lr: The low-resolution image, float [B, 3, h, w] in [0, 1].
            images: The further images that the model takes, and what was kept of references
                (`compress.model.references`); without that it sees none.

        Raises:
            UserError: One is missing, is not taken, or has another size than the model takes.
        """
        others = dict(images or {})
        for name, size in self.wiring.images.items():
            if name not in others:
                raise UserError(f"this model also takes the image '{name}'; give it")
            height, width = others[name].shape[-2:]
            if (height, width) != tuple(size):
                raise UserError(
                    f"the image '{name}' has {width}x{height} pixels and this model takes "
                    f"{size[1]}x{size[0]}; resize it"
                )
        unknown = others.keys() - set(self.wiring.given)
        if unknown:
            raise UserError(f"this model takes no image '{min(unknown)}'; leave it out")
        references = self.wiring.references
        if references is None:
            return {LR: lr, **others}
        return {LR: lr, **self._kept(references, lr, others), **others}

    def _kept(self, references: References, lr: torch.Tensor, others: Values) -> Values:
        """What was kept of references, out of what is given beside `lr`; zeros without any."""
        kept = {name: others[name] for name in references.kept if name in others}
        if not kept:
            return references.none(lr)
        for name, shape in references.shapes.items():
            if name not in kept or tuple(kept[name].shape) != shape:
                found = list(kept[name].shape) if name in kept else "missing"
                raise UserError(
                    f"what was kept of references does not fit this model: '{name}' is {found} and "
                    f"should be {list(shape)}; make it again with this model"
                )
        return kept

    def blank(self, height: int, width: int, device: str = "meta") -> Values:
        """Images without content, of an input of height x width."""
        others = {
            n: torch.empty(1, 3, *size, device=device) for n, size in self.wiring.images.items()
        }
        return self.given(torch.empty(1, 3, height, width, device=device), others)

    def constants(self) -> Values:
        """What the components without inputs put out, such as a text encoder's context."""
        values: Values = {}
        run_calls(self, [call for call in self.wiring.calls if not call.inputs], values)
        return values

    def context(self) -> torch.Tensor | None:
        """What the text encoder puts out; None for a model without one."""
        return self.constants().get("context")

    def predict(
        self, values: Values, state: torch.Tensor, *step: torch.Tensor, watch: Watch | None = None
    ) -> torch.Tensor:
        """The prediction of one step.

        Args:
            values: What there was before the process.
            state: What the process shows, [B, C, h, w].
            step: The timesteps, int64 [B], of a process of several steps.
            watch: Told of each call.
        """
        local = {**values, STATE: state}
        if step:
            local[TIMESTEP] = step[0]
        run_calls(self, self.wiring.steps, local, watch)
        return local[PREDICTION]

    def replacing(self, values: Values, others: Values) -> Values:
        """The values that the components of a step read, some of them replaced by the process.

        Raises:
            ValueError: No component of a step reads one of `others`.
        """
        unread = others.keys() - set(self.wiring.read_by_steps())
        if unread:
            raise ValueError(f"no component of a step reads {min(unread)}")
        return {**values, **others}

    def run_process(self, values: Values, steps: Steps) -> torch.Tensor:
        """The clean latent, by what the process may call."""
        first, *others = (values[name] for name in self.process.inputs)
        return self.process.restore(first, steps, *others)

    def restore(self, values: Values, watch: Watch | None = None) -> torch.Tensor:
        """The clean latent [B, C, h, w] of the values that there are before the process.

        Args:
            values: None of a step is among them.
            watch: Told of each call of each step, and between the steps.
        """
        return self.run_process(values, _OnWholeMaps(self, values, watch))

    def before_process(self, values: Values) -> Values:
        """What there is before the process."""
        known = dict(values)
        run_calls(self, self.wiring.before, known)
        return known

    def values_before(self, component: str, values: Values) -> Values:
        """What there is once the calls before a component have run.

        Args:
            component: Its name, not of a call `aside`. For a component of the steps it is what
                there is before the process.
            values: Images, or more; what is there already is not computed again.
        """
        known = dict(values)
        call = self.wiring.call(component)
        calls = self.wiring.before
        if call in calls:
            run_calls(self, calls[: calls.index(call)], known)
            return known
        run_calls(self, calls, known)
        if not call.in_process:
            if CLEAN_LATENT not in known:
                known[CLEAN_LATENT] = self.restore(known)
            after = self.wiring.after
            run_calls(self, after[: after.index(call)], known)
        return known

    def image_of(self, values: Values) -> torch.Tensor:
        """The image before any correction, from images or from what `values_before` gives."""
        known = dict(values)
        if CLEAN_LATENT not in known:
            run_calls(self, self.wiring.before, known)
            known[CLEAN_LATENT] = self.restore(known)
        run_calls(self, self.wiring.after, known)
        return known[IMAGE]

    def network(
        self, lr: torch.Tensor, images: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """What is trained, counted and exported: legal sizes, no tiles, no colour fix, no clamp."""
        return self.image_of(self.given(lr, images))

    def clean_latent(
        self, latent: torch.Tensor, context: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The clean latent x0 [B, C', h, w] of an encoded low-resolution image.

        It is for models whose steps read nothing but the latent and the context; `restore` is for
        all.

        Args:
            latent: What the encoder put out, [B, C, h, w].
            context: Saves a call of the text encoder.
        """
        return self.restore(self._of_latent(latent, context))

    def latent_of(self, values: Values) -> torch.Tensor:
        """The clean latent of images, or of more that there is already."""
        return self.restore(self.before_process(values))

    def predictions(
        self, latent: torch.Tensor, context: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """What the process gets on the way to the clean latent: one tensor for each step.

        Arguments are those of `clean_latent`.
        """
        return self.all_predictions(self._of_latent(latent, context))

    def all_predictions(self, values: Values) -> list[torch.Tensor]:
        """What the process gets on the way to the clean latent: one tensor for each step."""
        found: list[torch.Tensor] = []

        def note(call: Call, _inputs: tuple, outputs: tuple) -> None:
            if PREDICTION in call.outputs:
                found.append(outputs[call.outputs.index(PREDICTION)])

        self.restore(values, note)
        return found

    def _of_latent(self, latent: torch.Tensor, context: torch.Tensor | None) -> Values:
        values: Values = {LATENT: latent} | (self.constants() if context is None else {})
        if context is not None:
            values["context"] = context
        return values


class _OnWholeMaps:
    """What a process may call, without tiles.

    Args:
        model: The model.
        values: What there was before the process.
        watch: Told of each call.
    """

    def __init__(self, model: Components, values: Values, watch: Watch | None):
        self.model = model
        self.values = values
        self.watch = watch
        self.number = 0  # of the next step

    def __call__(
        self, state: torch.Tensor, *timesteps: torch.Tensor, **values: Any
    ) -> torch.Tensor:
        known = self.model.replacing(self.values, values)
        with at_step(self.number):
            self.number += 1
            return self.model.predict(known, state, *timesteps, watch=self.watch)

    def call(self, component: str, *inputs: Any) -> Any:
        call = self.model.wiring.call(component)
        local = call.given(inputs)
        run_calls(self.model, [call], local, self.watch)
        return call.result(local)
