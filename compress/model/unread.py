"""Take out of a model what nothing reads any more, such as the noise of steps that are gone."""

from dataclasses import replace

from compress.model.calls import IMAGE, PREDICTION
from compress.model.components import Components


def drop_unread(model: Components) -> None:
    """Drop the components none of whose values is read, and the values that a maker can leave out.

    One that makes several can where it has `keep_outputs`, which takes the places of those that
    stay.

    Args:
        model: Changed in place.
    """
    read = {IMAGE, PREDICTION, *model.process.inputs}
    kept = []
    for call in reversed(model.wiring.calls):
        part = getattr(model, call.component)
        needed = call.between or call.aside or part is None
        places = [place for place, name in enumerate(call.outputs) if name in read]
        if not needed and not places:
            delattr(model, call.component)
            continue
        if not needed and len(places) < len(call.outputs) and hasattr(part, "keep_outputs"):
            part.keep_outputs(places)
            call = replace(call, outputs=tuple(call.outputs[place] for place in places))
        read.update(call.inputs)
        kept.append(call)
    model.wiring = replace(model.wiring, calls=tuple(reversed(kept)))
