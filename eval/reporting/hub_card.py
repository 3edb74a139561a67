"""A run's card as the hub reads it: front matter that says licence, origin, data and metrics."""

import math
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from compress.core.errors import UserError
from compress.core.hub import hub_name
from compress.recipe.places import without_places
from eval.metric.names import in_order
from eval.reporting.card import card_text, licence, licences
from eval.reporting.rundir import Evaluation, Run

LIBRARY = "diffusion-sr-compress"
TASK = "image-to-image"
WIDTH = 100  # characters of a line of YAML
DATA_KEYS = ("data", "folders", "path")


@dataclass(frozen=True)
class Said:
    """What a user says of a model beside what its run holds.

    Attributes:
        license: Its terms by the hub's name, such as `apache-2.0`; None as recorded of the source.
        base_model: The model of the hub that it was made from; None as recorded of the source.
        datasets: Data sets of the hub that it was made with, beside those that the recipe names.
    """

    license: str | None = None
    base_model: str | None = None
    datasets: tuple[str, ...] = ()


def hub_card(run: Run, name: str, said: Said) -> ModelCard:
    """The card of a run that goes to the hub as `name`.

    Raises:
        UserError: Nobody recorded the terms of the source's weights, and `said` has none.
    """
    source = run.recipe["source"]
    results = [result for one in run.evaluations for result in _results(one)]
    front = ModelCardData(
        **_origin(source, said, str(run.path), "--license ID"),
        pipeline_tag=TASK,
        library_name=LIBRARY,
        tags=_tags(source, [entry["pass"]["pass"] for entry in run.ledger["passes"]]),
        datasets=list(dict.fromkeys([*said.datasets, *_data_of(run.recipe)])) or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=name.partition("/")[2],
        eval_results=results or None,
    )
    return ModelCard(f"---\n{front}\n---\n\n{card_text(run, place=name)}")


def pipeline_card(
    source: dict[str, Any], passes: list[dict[str, Any]], name: str, said: Said
) -> ModelCard:
    """The card of a model without a run: how to load it, its terms, and what made it.

    Args:
        source: The source's config, as in a recipe.
        passes: The passes' configs, in their order.
        name: The repository, `org/name`.
        said: What the user says of the model.

    Raises:
        UserError: As `hub_card`.
    """
    names = [entry["pass"] for entry in passes]
    front = ModelCardData(
        **_origin(source, said, name, "license='ID'"),
        pipeline_tag=TASK,
        library_name=LIBRARY,
        tags=_tags(source, names),
        datasets=list(dict.fromkeys([*said.datasets, *_data_of(passes)])) or None,
        model_name=name.partition("/")[2],
    )
    made_by = without_places({"source": source, "passes": passes})
    lines = [
        f"# {name.partition('/')[2]}",
        "",
        f"×4 super-resolution, `{source['family']}`"
        + (f" compressed by {', '.join(names)}." if names else "."),
        *("", "```python", "from compress.diffusion import SRPipeline", ""),
        f'pipe = SRPipeline.from_pretrained("{name}")',
        *('pipe("photo.png").images[0].save("photo_x4.png")', "```", ""),
        *("## Weights and licence", "", *licence(source), "", "## Made by", ""),
        *("```yaml", yaml.safe_dump(made_by, sort_keys=False, width=WIDTH).rstrip(), "```", ""),
    ]
    return ModelCard(f"---\n{front}\n---\n\n" + "\n".join(lines))


def _origin(source: dict[str, Any], said: Said, what: str, remedy: str) -> dict[str, Any]:
    """`license` and `base_model` of the front matter: said by the user, or recorded of the source.

    Raises:
        UserError: Nobody recorded the terms of the source's weights, and `said` has none.
    """
    known = licences().get(str(source.get("family")), {}).get(source.get("size"), {}).get("hub", {})
    brought = any(source.get(key) for key in licences()["files"] if key != "base")
    terms = said.license or (None if brought else known.get("license"))
    if terms is None:
        raise UserError(
            f"{what}: the terms of its source's weights are not recorded here; say them by "
            f"{remedy}, as the hub calls them, such as apache-2.0, openrail++ or other"
        )
    base = said.base_model or _base_of(source) or known.get("base_model")
    return {"license": terms, "base_model": base}


def _results(one: Evaluation) -> list[EvalResult]:
    """The means of the compressed model on one data set; a metric without a value is left out."""
    means = one.averages["compressed"]
    return [
        EvalResult(
            task_type=TASK,
            task_name="×4 super-resolution",
            dataset_type=one.data.lower().replace(" ", "_"),
            dataset_name=one.data,
            dataset_config=one.protocol,
            dataset_args={"images": means["images"]},
            metric_type=metric,
            metric_value=means[metric],
        )
        for metric in in_order(means)
        if means[metric] is not None and math.isfinite(means[metric])
    ]


def _tags(source: dict[str, Any], passes: list[str]) -> list[str]:
    family = str(source.get("family"))
    return ["super-resolution", "model-compression", "on-device", family, *passes]


def _base_of(source: dict[str, Any]) -> str | None:
    """The repository of the hub that the recipe itself names as base."""
    name = hub_name(str(source.get("base") or ""))
    return None if name is None else name.repo


def _data_of(value: Any, key: str = "") -> list[str]:
    """Data sets of the hub that a recipe names, in its order."""
    if isinstance(value, dict):
        return [name for inner, entry in value.items() for name in _data_of(entry, inner)]
    if isinstance(value, list):
        return [name for entry in value for name in _data_of(entry, key)]
    name = hub_name(value) if isinstance(value, str) and key in DATA_KEYS else None
    return [] if name is None else [name.repo]
