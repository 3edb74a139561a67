"""A metric by its name: ours, one of another package, else one of pyiqa's registry."""

from collections.abc import Iterable

from compress.core.errors import UserError, nearest
from compress.core.plugins import Extended, instance_problem
from compress.recipe.run_files import NOT_METRICS
from eval.metric.metrics import METRICS, Metric

# Ours, and those of other packages.
ALL_METRICS: Extended[Metric] = Extended("metrics", METRICS, instance_problem(Metric))


def metric_of(name: str) -> Metric:
    """The metric of a name.

    Raises:
        UserError: There is none.
    """
    if name in ALL_METRICS:
        return ALL_METRICS[name]
    from eval.metric.registry import ELSEWHERE, registry  # brings pyiqa, which takes seconds

    if name in ELSEWHERE:
        raise UserError(f"metric '{name}' {ELSEWHERE[name]}; choose another")
    if name not in registry():
        raise UserError(
            f"metric '{name}' is unknown{nearest(name, [*ALL_METRICS, *registry()])}; "
            f"choose from {', '.join(ALL_METRICS)}, or another name of pyiqa.list_models()"
        )
    return registry()[name]


def package_of(name: str) -> str:
    """The other package that a metric is of, with its version; empty for ours and pyiqa's."""
    return ALL_METRICS.version(name) if name in ALL_METRICS else ""


def is_metric(name: str) -> bool:
    """Whether there is a metric of this name."""
    if name in ALL_METRICS:
        return True
    from eval.metric.registry import registry

    return name in registry()


def in_order(names: Iterable[str]) -> list[str]:
    """The metrics among `names`, such as the keys of averages.json: those of METRICS first."""
    there = list(dict.fromkeys(names))
    listed = [name for name in ALL_METRICS if name in there]
    others = [name for name in there if name not in ALL_METRICS and name not in NOT_METRICS]
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
