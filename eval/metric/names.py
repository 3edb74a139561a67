"""A metric by its name: one of METRICS, else one of pyiqa's registry."""

from collections.abc import Iterable

from compress.core.errors import UserError, nearest
from compress.recipe.run_files import NOT_METRICS
from eval.metric.metrics import METRICS, Metric


def metric_of(name: str) -> Metric:
    """The metric of a name.

    Raises:
        UserError: There is none.
    """
    if name in METRICS:
        return METRICS[name]
    from eval.metric.registry import ELSEWHERE, registry  # brings pyiqa, which takes seconds

    if name in ELSEWHERE:
        raise UserError(f"metric '{name}' {ELSEWHERE[name]}; choose another")
    if name not in registry():
        raise UserError(
            f"metric '{name}' is unknown{nearest(name, [*METRICS, *registry()])}; "
            f"choose from {', '.join(METRICS)}, or another name of pyiqa.list_models()"
        )
    return registry()[name]


def is_metric(name: str) -> bool:
    """Whether there is a metric of this name."""
    if name in METRICS:
        return True
    from eval.metric.registry import registry

    return name in registry()


def in_order(names: Iterable[str]) -> list[str]:
    """The metrics among `names`, such as the keys of averages.json: those of METRICS first."""
    there = list(dict.fromkeys(names))
    listed = [name for name in METRICS if name in there]
    others = [name for name in there if name not in METRICS and name not in NOT_METRICS]
    return listed + [name for name in others if is_metric(name)]


def check_names(names: Iterable[str]) -> list[str]:
    """`names` without repetitions.

    Raises:
        UserError: A name is no metric's, or there is none at all.
    """
    unique = list(dict.fromkeys(names))
    for name in unique:
        metric_of(name)
    if not unique:
        raise UserError(f"no metric was asked for; choose from {', '.join(METRICS)}")
    return unique
