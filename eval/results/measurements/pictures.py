"""Pictures for the eye: ten photographs of RealSet65 by every model."""

from eval.results.measurement import Column, Finished, Job, Measurement, Row, Short
from eval.results.measurements.recipes import run_command, run_of
from eval.results.weights import NANO, recipe_inputs

W8A8 = ("passionsr_w8a8", "adcsr_weights_w8a8", "edge_sd_sr_w8a8")


def sheet(short: Short) -> list[Job]:
    """One picture of all."""
    models = (*NANO.values(), *(run_of(name, Short()) for name in W8A8))
    names = (*(file.rpartition("/")[2].partition(".")[0] for file in NANO.values()), *W8A8)
    labels = [word for name in names for word in ("--label", name)]
    draw = (
        *("python", "docs/images/contact_sheet.py", *models, "--data", "{realset65}"),
        *("--teacher", "{teacher}", *short.words(), *labels, "-o", "{out}/contact_sheet.jpg"),
    )
    # A short run trains less; the three recipes here train nothing.
    runs = tuple(run_command(name, Short()) for name in W8A8)
    inputs = tuple({*NANO.values(), *(file for name in W8A8 for file in recipe_inputs(name))})
    return [Job("sheet", (*runs, draw), _drawn, inputs=inputs)]


def _drawn(finished: Finished) -> list[Row]:
    return [{"picture": path.name} for path in finished.out.glob("*.jpg")]


SHEET = Measurement(
    name="contact_sheet",
    title="Ten photographs by every model, a picture",
    page="quality",
    jobs=sheet,
    columns=(Column("picture", "picture"),),
    needs=("realset65", "teacher"),
    hours=0.3,
    pictures=("docs/images/contact_sheet.jpg",),
)
