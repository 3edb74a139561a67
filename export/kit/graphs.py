"""Which graphs of a manifest an application runs, in their order."""

from typing import Any

from export.targets.host.chain import WHOLE, stages

Stages = tuple[list[str], list[str], list[str]]


def stages_of(manifest: dict[str, Any]) -> Stages:
    """The graphs before the process, at each step, and after it.

    One graph for all is the first of one; it runs where the parts are not all there.

    Raises:
        ValueError: They are no whole model.
    """
    found = stages(manifest)
    if found is not None:
        return found
    if WHOLE in manifest["graphs"]:
        return [WHOLE], [], []
    raise ValueError("the graphs of this folder are no whole model")


def is_whole(manifest: dict[str, Any]) -> bool:
    """Whether one graph computes all."""
    return stages_of(manifest) == ([WHOLE], [], [])


def graphs_that_run(manifest: dict[str, Any]) -> list[str]:
    """Their names in running order."""
    return [name for stage in stages_of(manifest) for name in stage]
